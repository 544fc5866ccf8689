package crashtest_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// wire is a raw session.
type wire struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
}

// openWire logs in; parameters are for the startup message.
func openWire(ctx context.Context, dsn string, parameters map[string]string) (*wire, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for name, value := range parameters {
		config.RuntimeParams[name] = value
	}
	ctx, cancel := context.WithTimeout(ctx, wirePatience)
	defer cancel()
	c, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	h, err := c.Hijack()
	if err != nil {
		return nil, err
	}
	return &wire{h.Conn, h.Frontend}, nil
}

// wirePatience bounds each wait for a server.
const wirePatience = time.Minute

// reply is what a query is told.
type reply struct {
	lines []string
	code  string // SQLSTATE of its error; "": none
	tx    byte   // as the session stands then
}

// send writes messages.
func (w *wire) send(messages []pgproto3.FrontendMessage) error {
	for _, m := range messages {
		w.frontend.Send(m)
	}
	if err := w.conn.SetDeadline(time.Now().Add(wirePatience)); err != nil {
		return err
	}
	return w.frontend.Flush()
}

// receive reads up to the next ReadyForQuery. What an error or a notice says beside its
// code, words and place in the text is left out, and what is not asked for.
func (w *wire) receive() (r reply, err error) {
	for {
		message, err := w.frontend.Receive()
		if err != nil {
			return r, err
		}
		switch m := message.(type) {
		case *pgproto3.ParameterStatus, *pgproto3.NoticeResponse:
		case *pgproto3.RowDescription:
			r.lines = append(r.lines, fmt.Sprintf("T %d", len(m.Fields)))
		case *pgproto3.CommandComplete:
			r.lines = append(r.lines, "C "+string(m.CommandTag))
		case *pgproto3.DataRow:
			r.lines = append(r.lines, fmt.Sprintf("D %q", m.Values))
		case *pgproto3.ErrorResponse:
			r.code = m.Code
			r.lines = append(r.lines, fmt.Sprintf("E %s %s %s at %d", m.Severity, m.Code, m.Message, m.Position))
		case *pgproto3.ReadyForQuery:
			r.tx = m.TxStatus
			r.lines = append(r.lines, fmt.Sprintf("Z %c", m.TxStatus))
			return r, nil
		default:
			r.lines = append(r.lines, fmt.Sprintf("%T", m))
		}
	}
}

// ask is send and receive.
func (w *wire) ask(messages []pgproto3.FrontendMessage) (reply, error) {
	if err := w.send(messages); err != nil {
		return reply{}, err
	}
	return w.receive()
}

func (w *wire) close() { _ = w.conn.Close() } // that is all there is to it

func (r reply) equal(other reply) bool { return slices.Equal(r.lines, other.lines) }
