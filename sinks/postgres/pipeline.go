package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Parameters and results are raw: nothing is decoded or encoded on the way.
const (
	formatText   int16 = 0
	formatBinary int16 = 1
)

// command is one statement with its parameters.
type command struct {
	sql     string   // with types its identity: it is prepared once per connection
	types   []uint32 // OIDs of the parameters
	params  [][]byte // nil: NULL
	formats []int16  // one for all, or one each; nil: text
	results []int16  // one for all columns, or one each; nil: text
}

// answer is what a command returned.
type answer struct {
	rows  [][][]byte // owned; a nil value is NULL
	types []uint32   // of the columns, if there are rows
	tag   pgconn.CommandTag
}

// commandError says which command of a pipeline failed. Those before it have run
// (and, inside a transaction, are undone with it), those behind it have not.
type commandError struct {
	index int
	err   error
}

func (e *commandError) Error() string { return e.err.Error() }

func (e *commandError) Unwrap() error { return e.err }

// link is the connection of one apply transaction. The first run begins the
// transaction and moves the checkpoint, in the same round trip as its commands.
type link interface {
	// run sends the commands in one round trip and returns an answer each. With
	// commit the transaction is committed behind them, in the same round trip.
	// Errors of the server are *commandError around *pgconn.PgError.
	run(ctx context.Context, commands []command, commit bool) ([]answer, error)
}

// maxStatements bounds the prepared statements of one connection.
const maxStatements = 256

// statements are those prepared on a connection, in its CustomData.
type statements struct {
	names map[string]string // by command.identity
	order []string          // identities, oldest first
	drop  []string          // names to deallocate
	next  int
}

const statementsKey = "walproxy.statements"

func statementsOf(conn *pgconn.PgConn) *statements {
	s, ok := conn.CustomData()[statementsKey].(*statements)
	if !ok {
		s = &statements{names: map[string]string{}}
		conn.CustomData()[statementsKey] = s
	}
	return s
}

// step is a request of a pipeline that an answer comes for.
type step struct {
	command int
	prepare bool
	id      string
	name    string
}

// runPipeline sends the commands in one round trip. A connection on which it
// failed with anything but *pgconn.PgError is closed.
func runPipeline(ctx context.Context, conn *pgconn.PgConn, commands []command) ([]answer, error) {
	known := statementsOf(conn)
	p := conn.StartPipeline(ctx)
	steps := make([]step, 0, len(commands)+4)
	fresh := map[string]string{}
	for len(known.order) > maxStatements {
		known.drop = append(known.drop, known.names[known.order[0]])
		delete(known.names, known.order[0])
		known.order = known.order[1:]
	}
	for _, name := range known.drop {
		p.SendDeallocate(name)
		steps = append(steps, step{command: -1})
	}
	known.drop = nil
	for i := range commands {
		c := &commands[i]
		id := c.identity()
		name, ok := known.names[id]
		if !ok {
			name, ok = fresh[id]
		}
		if !ok {
			known.next++
			name = fmt.Sprintf("walproxy_%d", known.next)
			fresh[id] = name
			p.SendPrepare(name, c.sql, c.types)
			steps = append(steps, step{command: i, prepare: true, id: id, name: name})
		}
		p.SendQueryPrepared(name, c.params, c.formats, c.results)
		steps = append(steps, step{command: i})
	}
	answers := make([]answer, len(commands))
	err := p.Sync()
	if err == nil {
		err = receive(p, known, steps, answers)
	}
	if closeErr := p.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	return answers, err
}

// receive reads the answers of steps up to the first failure.
func receive(p *pgconn.Pipeline, known *statements, steps []step, answers []answer) error {
	for _, s := range steps {
		result, err := p.GetResults()
		if reader, ok := result.(*pgconn.ResultReader); ok && err == nil {
			err = answers[s.command].read(reader)
		}
		if err != nil {
			return failed(s.command, err)
		}
		if s.prepare {
			known.names[s.id] = s.name
			known.order = append(known.order, s.id)
		}
	}
	_, err := p.GetResults() // the sync; the failure of a commit has come before
	return err
}

func failed(command int, err error) error {
	if _, ok := errors.AsType[*pgconn.PgError](err); ok {
		return &commandError{index: command, err: err}
	}
	return err
}

func (a *answer) read(r *pgconn.ResultReader) error {
	for r.NextRow() {
		values := r.Values()
		if a.types == nil {
			for _, field := range r.FieldDescriptions() {
				a.types = append(a.types, field.DataTypeOID)
			}
		}
		size := 0
		for _, v := range values {
			size += len(v)
		}
		row, buf := make([][]byte, len(values)), make([]byte, 0, size)
		for i, v := range values {
			if v == nil {
				continue
			}
			start := len(buf)
			buf = append(buf, v...)
			row[i] = buf[start:len(buf):len(buf)]
		}
		a.rows = append(a.rows, row)
	}
	var err error
	a.tag, err = r.Close()
	return err
}

// forget gives up the prepared statements, which a change of the schema may have
// made wrong: they are prepared again under new names.
func forget(conn *pgconn.PgConn) {
	s := statementsOf(conn)
	for _, name := range s.names {
		s.drop = append(s.drop, name)
	}
	clear(s.names)
	s.order = nil
}

// identity tells statements apart: the same text can take other types after a
// column was altered.
func (c *command) identity() string {
	if len(c.types) == 0 {
		return c.sql
	}
	id := make([]byte, 0, len(c.sql)+4*len(c.types))
	id = append(id, c.sql...)
	for _, oid := range c.types {
		id = binary.BigEndian.AppendUint32(id, oid)
	}
	return string(id)
}
