package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walproxy/walproxy/sinks"
)

// codeMoved is raised by walproxy's own function when checkpoints do not move.
const codeMoved = "WP001"

// rule is what a SQLSTATE means for the records of a transaction that the server
// ended with it, and what to do about it where a person has to.
type rule struct {
	outcome sinks.Outcome
	remedy  string
}

// codes are single conditions whose class (below) says something else. Source of
// both: PostgreSQL's src/backend/utils/errcodes.txt, documented as appendix A,
// "PostgreSQL Error Codes"; the versions 12 to 18.
var codes = map[string]rule{
	"25P02": {sinks.Retry, ""}, // in failed transaction
	"25P03": {sinks.Retry, ""}, // idle-in-transaction time-out: the session was ended
	"25P04": {sinks.Retry, ""}, // transaction time-out (17)
	"25006": {sinks.Halt, "the server is read-only: connect to the primary (target_session_attrs=read-write), or let it take writes again"},
	"28P01": {sinks.Halt, "correct the password (dsn, passfile or PGPASSWORD)"},
	"3D000": {sinks.Halt, "create the database, or correct its name in the dsn"},
	"3F000": {sinks.Halt, "create the schema, or correct its name"},
	"40003": {sinks.Unknown, ""}, // statement completion unknown
	"42501": {sinks.Halt, "grant the role what docs/postgres.md lists"},
	"42703": {sinks.Halt, "the table lost a column that was there when its catalogue was read"},
	"42P01": {sinks.Halt, "create the table, or correct sinks.*.collections.*.table"},
	"54011": {sinks.Halt, ""},  // too many columns
	"54023": {sinks.Halt, ""},  // too many arguments
	"55P03": {sinks.Retry, ""}, // lock not available: our lock time-out
	"55P04": {sinks.Retry, ""}, // unsafe use of a new enum value: its transaction ends
	"55006": {sinks.Retry, ""}, // object in use
	"57014": {sinks.Retry, ""}, // query cancelled: our statement time-out, or an administrator
	"57P04": {sinks.Halt, "the database was dropped"},
	"XX001": {sinks.Halt, "PostgreSQL reports corrupted data: see its log"},
	"XX002": {sinks.Halt, "PostgreSQL reports a corrupted index: see its log"},
	"HV00N": {sinks.Retry, ""}, // foreign table: its server is away
}

// classes by the first two characters. Rejected is said where the cause is in a
// record, or in what the table's owner wrote to judge records (constraints,
// triggers): the loop takes it for true only once the record was tried alone,
// after everything before it.
var classes = map[string]rule{
	"08": {sinks.Retry, ""},    // connection exception
	"09": {sinks.Rejected, ""}, // triggered action exception
	"0A": {sinks.Halt, "the server cannot do this: see docs/postgres.md for the versions that work"},
	"20": {sinks.Rejected, ""}, // case not found, in a trigger
	"21": {sinks.Rejected, ""}, // cardinality violation
	"22": {sinks.Rejected, ""}, // data exception
	"23": {sinks.Rejected, ""}, // integrity constraint violation
	"25": {sinks.Halt, "the transaction cannot be used so"},
	"26": {sinks.Retry, ""},    // prepared statement lost: a new connection has none to lose
	"27": {sinks.Rejected, ""}, // triggered data change violation
	"28": {sinks.Halt, "correct role and authentication (dsn, pg_hba.conf)"},
	"2B": {sinks.Rejected, ""}, // dependent privileges: in a trigger
	"2F": {sinks.Rejected, ""}, // SQL routine exception: in a trigger
	"38": {sinks.Rejected, ""}, // external routine exception: in a trigger
	"39": {sinks.Rejected, ""}, // external routine invocation: in a trigger
	"3D": {sinks.Halt, "correct the database's name in the dsn"},
	"3F": {sinks.Halt, "create the schema, or correct its name"},
	"40": {sinks.Retry, ""}, // transaction rollback: serialization failure, deadlock
	"42": {sinks.Halt, "the statement does not fit the table any more, or may not be run by this role"},
	"44": {sinks.Rejected, ""}, // WITH CHECK OPTION violation
	"53": {sinks.Retry, ""},    // insufficient resources: disk, memory, connections
	"54": {sinks.Rejected, ""}, // program limit exceeded: an index row too large, say
	"55": {sinks.Halt, "an object is not in the state that is needed"},
	"57": {sinks.Retry, ""},                                        // operator intervention: shutdown, recovery, starting
	"58": {sinks.Retry, "the server's system failed: see its log"}, // I/O; also a full disk: 58P01 where PostgreSQL reports a stale errno after a short write
	"72": {sinks.Retry, ""},                                        // snapshot too old
	"F0": {sinks.Halt, "the server's configuration is damaged"},
	"HV": {sinks.Halt, "a foreign table cannot be used"},
	"P0": {sinks.Rejected, ""}, // PL/pgSQL: RAISE in a trigger
	"XX": {sinks.Retry, ""},    // internal error
}

// standard classes that PostgreSQL knows and that no statement of ours brings up:
// should one come, somebody has to look.
var unexpected = map[string]bool{
	"00": true, "01": true, "02": true, "03": true, "0B": true, "0F": true, "0L": true, "0P": true, "0Z": true,
	"10": true, "24": true, "2D": true, "34": true, "3B": true,
}

// ruleOf finds a code's rule. A class that PostgreSQL does not have can only come
// from a function that raises it by hand, which is what P0001 is, too.
func ruleOf(code string) rule {
	if r, ok := codes[code]; ok {
		return r
	}
	if len(code) != 5 {
		return rule{sinks.Halt, "the server sent no SQLSTATE"}
	}
	if r, ok := classes[code[:2]]; ok {
		return r
	}
	if unexpected[code[:2]] {
		return rule{sinks.Halt, "PostgreSQL should not say this here"}
	}
	return rule{sinks.Rejected, ""}
}

// ServerError is what the server said, with what to do about it.
type ServerError struct {
	Err    *pgconn.PgError
	Remedy string // empty: nothing
}

func (e *ServerError) Error() string {
	if e.Remedy == "" {
		return "sink postgres: " + e.Err.Error()
	}
	return fmt.Sprintf("sink postgres: %v: %s", e.Err, e.Remedy)
}

func (e *ServerError) Unwrap() error { return e.Err }

// Details implements sinks.Detailed.
func (e *ServerError) Details() map[string]string {
	return map[string]string{
		"sqlstate": e.Err.Code, "message": e.Err.Message, "detail": e.Err.Detail, "hint": e.Err.Hint,
		"schema": e.Err.SchemaName, "table": e.Err.TableName, "column": e.Err.ColumnName,
		"constraint": e.Err.ConstraintName, "type": e.Err.DataTypeName,
	}
}

// classify gives an error its outcome, unless it has one. sent says that a COMMIT
// was on its way: without an answer it may have happened.
func (s *Sink) classify(err error, sent bool) error {
	if err == nil {
		return nil
	}
	if marked, ok := errors.AsType[*sinks.OutcomeError](err); ok {
		s.metrics.failed(marked.Outcome, codeOf(err))
		return err
	}
	if o := sinks.OutcomeOf(err); o == sinks.Halt { // a sentinel of package sinks
		return err
	}
	outcome, err := judge(err, sent)
	s.metrics.failed(outcome, codeOf(err))
	return sinks.WithOutcome(outcome, err)
}

func judge(err error, sent bool) (sinks.Outcome, error) {
	noAnswer := sinks.Retry
	if sent {
		noAnswer = sinks.Unknown
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
			return noAnswer, fmt.Errorf("sink postgres: no answer in time: %w", err)
		}
		if remedy := untrusted(err); remedy != "" {
			return sinks.Halt, fmt.Errorf("sink postgres: %w: %s", err, remedy)
		}
		return noAnswer, fmt.Errorf("sink postgres: %w", err)
	}
	r := ruleOf(pgErr.Code)
	said := &ServerError{Err: pgErr, Remedy: r.remedy}
	// ERROR ends the transaction for sure. FATAL and PANIC end the session, and
	// may come between a commit and its answer.
	if sent && r.outcome == sinks.Retry && fatal(pgErr) {
		return sinks.Unknown, said
	}
	return r.outcome, said
}

// untrusted says what to do about a connection that ended because one side does
// not trust the other's certificate; "": it ended otherwise.
func untrusted(err error) string {
	if _, connecting := errors.AsType[*pgconn.ConnectError](err); !connecting {
		return ""
	}
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	_, name := errors.AsType[x509.HostnameError](err)
	switch {
	case name:
		return "the server's certificate is for another name: connect by the name that it has, or use sslmode=verify-ca"
	case verification || authority || invalid:
		return "the server's certificate is not trusted: name the authority that signed it (sslrootcert), or this is not the server you mean"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" { // crypto/tls: an alert of the server
		return "the server does not accept the client's certificate: name one that an authority in its ssl_ca_file has signed (sslcert, sslkey)"
	}
	return ""
}

// fatal reports that the session ended with the error.
func fatal(err *pgconn.PgError) bool {
	severity := err.SeverityUnlocalized
	return severity != "ERROR"
}

// codeOf is an error's SQLSTATE, or "".
func codeOf(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}
