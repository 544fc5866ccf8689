package main

// Exit codes; docs/operations.md tells them to users.
const (
	exitOK = 0
	// exitUsage: the command line or the configuration is wrong.
	exitUsage = 1
	// exitRemaining: stopped in order, with records in the log that are not
	// applied. The next start applies them.
	exitRemaining = 2
	// exitFailed: the log was poisoned, or something else failed while running
	// or closing.
	exitFailed = 3
	// exitStart: could not start: the directory is in use or damaged, a port is
	// taken.
	exitStart = 4
	// exitSignal plus its number: a second signal ended the stop.
	exitSignal = 128
)

// exitError gives an error its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitWith(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: code, err: err}
}
