package value

import "fmt"

// Verdict is what is known of a value.
type Verdict uint8

const (
	// Unknown: it has to be passed through.
	Unknown Verdict = iota
	// Good: PostgreSQL takes it.
	Good
	// Bad: PostgreSQL refuses it with the Error.
	Bad
)

func (v Verdict) String() string { return [...]string{"unknown", "good", "bad"}[v] }

// Error is a refusal as PostgreSQL words it.
type Error struct {
	Code    string // SQLSTATE
	Message string
	Detail  string
	Hint    string
	// Column that must not be null; "" for other errors.
	Column string
}

func (e *Error) Error() string { return e.Message + " (SQLSTATE " + e.Code + ")" }

// tooLong is completed by At.
const tooLong = "incorrect binary data format in bind parameter "

// At returns e as it reads for a parameter, from 1: some messages name it.
func (e *Error) At(parameter int) *Error {
	if e == nil || e.Message != tooLong {
		return e
	}
	return refuse(e.Code, "%s%d", tooLong, parameter)
}

// SQLSTATEs.
const (
	codeSyntax         = "22P02" // invalid_text_representation
	codeRange          = "22003" // numeric_value_out_of_range
	codeTooLong        = "22001" // string_data_right_truncation
	codeEncoding       = "22021" // character_not_in_repertoire
	codeDatetime       = "22008" // datetime_field_overflow
	codeParameterValue = "22023" // invalid_parameter_value
	codeBinary         = "22P03" // invalid_binary_representation
	codeProtocol       = "08P01" // protocol_violation
	codeNotNull        = "23502" // not_null_violation
)

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func badSyntax(display, text string) *Error {
	return refuse(codeSyntax, `invalid input syntax for type %s: "%s"`, display, text)
}
