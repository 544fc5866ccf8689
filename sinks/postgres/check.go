package postgres

import (
	"errors"
	"fmt"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
	"github.com/walproxy/walproxy/mutation"
)

// Check implements sinks.Checker: a statement writes the row that its key names, by which
// it is ordered. Whether it does is known where the collection says what the key is.
func (s *Sink) Check(rec *walproxyv1.Record) error {
	if err := s.checkKey(rec.GetStatement(), "statement."); err != nil {
		return err
	}
	for i, m := range rec.GetGroup().GetMembers() {
		if err := s.checkKey(m.GetStatement(), fmt.Sprintf("[%d].statement.", i)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sink) checkKey(st *walproxyv1.Statement, field string) error {
	if st == nil {
		return nil
	}
	columns := s.o.collection(st.GetCollection()).Key
	if len(columns) == 0 {
		return nil
	}
	err := pgstatement.CheckKey(st, columns)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgstatement.ErrText):
		field += "text"
	case errors.Is(err, pgstatement.ErrParameters):
		field += "parameters"
	default:
		field += "key"
	}
	return &mutation.InvalidError{Field: field, Reason: err.Error()}
}
