package systemd

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets are those that the service manager passed, by their names; empty: there are
// none. The environment then says so no more: a child of this process gets none. Each must
// be TCP's and listen, and have one of the names that are known. After an error all are closed.
func Sockets(known ...string) (map[string]net.Listener, error) {
	sockets := map[string]net.Listener{}
	var errs []error
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f) // of a duplicate
		_ = f.Close()
		if err != nil {
			errs = append(errs, fmt.Errorf("systemd's socket %q does not listen (in its unit: ListenStream=): %w", f.Name(), err))
			continue
		}
		switch {
		case !slices.Contains(known, f.Name()):
			err = fmt.Errorf("systemd's socket %q is of no endpoint: in its unit, FileDescriptorName= has to be one of %s",
				f.Name(), strings.Join(known, ", "))
		case sockets[f.Name()] != nil:
			err = fmt.Errorf("systemd passed two sockets named %s: an endpoint has one", f.Name())
		case l.Addr().Network() != "tcp":
			err = fmt.Errorf("systemd's socket %q is one of %s: only TCP is served", f.Name(), l.Addr().Network())
		default:
			sockets[f.Name()] = l
			continue
		}
		errs = append(errs, err, l.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, Close(sockets))
	}
	return sockets, nil
}

// Close closes those that nobody serves.
func Close(sockets map[string]net.Listener) error {
	var errs []error
	for l := range maps.Values(sockets) {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
