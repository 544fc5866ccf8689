package pgwire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// refusal is an error that the endpoint tells a client itself; the connection
// ends behind it. Fields as in PostgreSQL's messages.
type refusal struct {
	code    string // SQLSTATE
	message string
	hint    string
	reason  string // for metrics
	cause   error  // for the log; not told
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %v", r.message, r.cause)
	}
	return r.message
}

func (r *refusal) Unwrap() error { return r.cause }

// What the endpoint tells clients, in one place.

func refuseVersion(version uint32) *refusal {
	return &refusal{code: "0A000", reason: "protocol",
		message: fmt.Sprintf("unsupported frontend protocol %d.%d: the server supports 3", version>>16, version&0xffff)}
}

func refuseStartup(what string) *refusal {
	return &refusal{code: "08P01", reason: "protocol", message: "invalid startup packet: " + what}
}

func refuseFrame(err error) *refusal {
	if f, ok := err.(*frameError); ok && f.bytes >= 0 {
		return &refusal{code: "54000", reason: "too_large", message: "walproxy: " + f.Error(),
			hint: "pgwire.max_message_bytes bounds what a client may send in one message."}
	}
	return &refusal{code: "08P01", reason: "protocol", message: "walproxy: " + err.Error()}
}

func refusePlain() *refusal {
	return &refusal{code: "28000", reason: "tls", message: "walproxy takes connections with TLS only",
		hint: "Connect with sslmode=require or above."}
}

func refuseReplication() *refusal {
	return &refusal{code: "0A000", reason: "replication", message: "walproxy passes no replication connections",
		hint: "Connect to PostgreSQL itself, or leave out pgwire.refuse_replication."}
}

func refuseTrust() *refusal {
	return &refusal{code: "28000", reason: "trust",
		message: "PostgreSQL asked for no authentication, and walproxy does not pass that on to another machine",
		hint: "pg_hba.conf sees walproxy's address instead of the client's: use scram-sha-256 for it. " +
			"pgwire.allow_trust lets such clients in."}
}

func refuseBinding() *refusal {
	return &refusal{code: "28000", reason: "channel_binding",
		message: "SCRAM with channel binding cannot pass through two TLS connections with different certificates",
		hint: "Connect with channel_binding=disable, or give walproxy the certificate of PostgreSQL, " +
			"or have it reach PostgreSQL over a Unix socket or without TLS."}
}

func refuseAway(cause error) *refusal {
	return &refusal{code: "57P03", reason: "upstream_away", cause: cause,
		message: "walproxy cannot reach PostgreSQL",
		hint:    "It may be restarting: try again. walproxy's log says what failed, for pgwire.upstream."}
}

func refuseStranger(cause error) *refusal {
	return &refusal{code: "57P03", reason: "upstream_away", cause: cause,
		message: "walproxy cannot reach PostgreSQL",
		hint: "walproxy lets in meanwhile who logged in before with the same parameters, and whose verifier it knows " +
			"(pgwire.users, auth_file or auth_query). Try again."}
}

func refuseStatement(cause error, since time.Time) *refusal {
	return &refusal{code: "57P03", reason: "upstream_away", cause: cause,
		message: "PostgreSQL is away, and this statement needs it",
		hint: fmt.Sprintf("Nothing of it was done. The session goes on, and finds PostgreSQL when it is back; "+
			"walproxy has missed it since %s.", since.UTC().Format("15:04:05Z"))}
}

func refuseSASL(cause error) *refusal {
	return &refusal{code: "08P01", reason: "protocol", cause: cause, message: "walproxy: malformed SCRAM message"}
}

func refusePassword(user string) *refusal {
	return &refusal{code: "28P01", reason: "password",
		message: fmt.Sprintf("password authentication failed for user %q", user)}
}

func endUnattached(cause error) *refusal {
	r := &refusal{code: "08006", reason: "unattached", cause: cause,
		message: "walproxy cannot continue this session on a new connection to PostgreSQL",
		hint:    "Nothing of the statement was done. Connect again."}
	if e, ok := errors.AsType[*serverError](cause); ok {
		r.code, r.message = e.code, r.message+": "+e.message
	}
	return r
}

func refusePool(o Pool, login grantKey) *refusal {
	return &refusal{code: "53300", reason: "pool_wait",
		message: fmt.Sprintf("query_wait_timeout: no connection of user %q to database %q was free for %v: all %d are in use",
			login.User, login.Database, o.WaitTimeout, o.Size),
		hint: "Nothing of it was done. SHOW CLIENTS in walproxy's console says which sessions keep one for themselves; pgwire.pool.size and wait_timeout are the bounds."}
}

func refuseCancelled() *refusal {
	return &refusal{code: "57014", reason: "cancelled", message: "canceling statement due to user request"}
}

// endUnfit ends a session of a pool in which messages come in an order that no driver's do.
func endUnfit(why string) *refusal {
	return &refusal{code: "0A000", reason: "unfit",
		message: "walproxy cannot have this session share connections to PostgreSQL: " + why,
		hint:    "Connect to an endpoint without pgwire.pool."}
}

func endUnanswered(limit time.Duration) *refusal {
	return &refusal{code: "08006", reason: "unanswered",
		message: fmt.Sprintf("PostgreSQL has not answered for %v and takes no connections", limit),
		hint:    "The outcome of what was under way is unknown. pgwire.away.answer_timeout is the bound."}
}

func endLost(cause error) *refusal {
	return &refusal{code: "08006", reason: "upstream_lost", cause: cause,
		message: "walproxy lost the connection to PostgreSQL",
		hint:    "The outcome of what was under way is unknown. Connect again."}
}

func refuseFull(what string, limit int) *refusal {
	return &refusal{code: "53300", reason: "too_many",
		message: fmt.Sprintf("walproxy: too many connections%s: %d", what, limit),
		hint:    "pgwire.max_connections, max_user_connections and max_database_connections bound them."}
}

func refuseLate(limit time.Duration) *refusal {
	return &refusal{code: "57014", reason: "login_timeout",
		message: fmt.Sprintf("canceling authentication due to timeout: no login within %v", limit)}
}

func endIdle(limit time.Duration) *refusal {
	return &refusal{code: "57P05", reason: "idle",
		message: fmt.Sprintf("terminating connection due to idle-session timeout: walproxy allows %v", limit)}
}

func endIdleInTransaction(limit time.Duration) *refusal {
	return &refusal{code: "25P03", reason: "idle_in_transaction",
		message: fmt.Sprintf("terminating connection due to idle-in-transaction timeout: walproxy allows %v", limit),
		hint:    "The transaction is rolled back. pgwire.idle_in_transaction_timeout is the bound."}
}

func endStalled(limit time.Duration) *refusal {
	return &refusal{code: "08006", reason: "stalled",
		message: fmt.Sprintf("terminating connection: nothing was taken for %v", limit)}
}

func endStopping() *refusal {
	return &refusal{code: "57P01", reason: "stopping",
		message: "terminating connection due to administrator command: walproxy stops"}
}

// appendTo appends the ErrorResponse that ends a connection.
func (r *refusal) appendTo(b []byte) []byte { return r.appendAs(b, "FATAL") }

// appendAs appends the ErrorResponse; behind severity ERROR the session goes on.
func (r *refusal) appendAs(b []byte, severity string) []byte {
	start := len(b)
	b = append(b, sError, 0, 0, 0, 0)
	for _, f := range []struct {
		kind byte
		text string
	}{{'S', severity}, {'V', severity}, {'C', r.code}, {'M', r.message}, {'H', r.hint}} {
		if f.text != "" {
			b = append(b, f.kind)
			b = append(b, f.text...)
			b = append(b, 0)
		}
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-1))
	return b
}
