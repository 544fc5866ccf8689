package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
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
	// path is the search path that it runs under; empty: the sink's own. A statement
	// that is prepared is planned again when it meets another path.
	path string
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

// link is the connection of one apply transaction. What is sent first follows
// BEGIN and the move of the checkpoint, in the same round trip.
type link interface {
	// send lets the server begin with commands while the next are made. They
	// belong to the round trip of the next run, which has their errors too, and
	// whose answers are those to its own commands. What the commands consist of
	// may be changed once it returns.
	send(ctx context.Context, commands []command) error
	// run sends the commands in one round trip and returns an answer each. With
	// commit the transaction is committed behind them, in the same round trip.
	// Errors of the server are *commandError around *pgconn.PgError; the index
	// counts those sent before, since the last run.
	run(ctx context.Context, commands []command, commit bool) ([]answer, error)
	// own is the session that the transaction begins with.
	own() session
}

// maxStatements bounds the prepared statements of one connection.
const maxStatements = 256

// prepared are the statements of a connection, in its CustomData.
type prepared struct {
	names map[string]string // by command.identity
	order []string          // identities, oldest first
	drop  []string          // names to deallocate
	next  int
}

const statementsKey = "walproxy.statements"

func preparedOf(conn *pgconn.PgConn) *prepared {
	s, ok := conn.CustomData()[statementsKey].(*prepared)
	if !ok {
		s = &prepared{names: map[string]string{}}
		conn.CustomData()[statementsKey] = s
	}
	return s
}

// step is a request of a pipeline that an answer comes for.
type step struct {
	command int
	sync    bool
	prepare bool
	id      string
	name    string
}

// runPipeline sends the commands in one round trip. A connection on which it
// failed with anything but *pgconn.PgError is closed.
func runPipeline(ctx context.Context, conn *pgconn.PgConn, commands []command) ([]answer, error) {
	s := openStream(ctx, conn)
	s.queue(commands)
	return s.end()
}

// stream is a round trip that is sent in parts: the server works at what it has
// while the rest is made. Nothing else may use the connection until its end.
type stream struct {
	pipeline *pgconn.Pipeline
	frontend *pgproto3.Frontend
	known    *prepared
	fresh    map[string]string // names of statements that it prepares, by identity
	steps    []step
	commands int
	memory   *[]byte // the frontend's buffer, if it is ours
}

func openStream(ctx context.Context, conn *pgconn.PgConn) *stream {
	s := &stream{pipeline: conn.StartPipeline(ctx), frontend: conn.Frontend(), known: preparedOf(conn), fresh: map[string]string{}}
	known := s.known
	for len(known.order) > maxStatements {
		known.drop = append(known.drop, known.names[known.order[0]])
		delete(known.names, known.order[0])
		known.order = known.order[1:]
	}
	for _, name := range known.drop {
		s.pipeline.SendDeallocate(name)
		s.steps = append(s.steps, step{command: -1})
	}
	known.drop = nil
	return s
}

// queue copies the commands to what flush or end will send.
func (s *stream) queue(commands []command) {
	for i := range commands {
		c := &commands[i]
		id := c.identity()
		name, ok := s.known.names[id]
		if !ok {
			name, ok = s.fresh[id]
		}
		if !ok {
			s.known.next++
			name = fmt.Sprintf("walproxy_%d", s.known.next)
			s.fresh[id] = name
			s.pipeline.SendPrepare(name, c.sql, c.types)
			s.steps = append(s.steps, step{command: s.commands, prepare: true, id: id, name: name})
		}
		if size := c.size(); size > 1024 {
			s.frontend.Send(room{s, size})
		}
		s.pipeline.SendQueryPrepared(name, c.params, c.formats, c.results)
		s.steps = append(s.steps, step{command: s.commands})
		s.commands++
	}
}

// room is no message: it makes room for one in the frontend's buffer, which would
// grow in steps, copying what it has, and be new memory for every batch.
type room struct {
	stream *stream
	size   int
}

func (room) Frontend()           {}
func (room) Decode([]byte) error { return errors.ErrUnsupported }

func (r room) Encode(dst []byte) ([]byte, error) {
	need := len(dst) + r.size
	if cap(dst) >= need {
		return dst, nil
	}
	s := r.stream
	if s.memory == nil {
		s.memory, _ = outgoing.Get().(*[]byte)
	}
	if s.memory == nil || cap(*s.memory) < need {
		grown := make([]byte, 0, max(need, 2*cap(dst)))
		s.memory = &grown
	}
	return append((*s.memory)[:0], dst...), nil
}

// outgoing has memory of streams whose messages are sent.
var outgoing sync.Pool

// sync sends what is queued, with a Sync behind it.
func (s *stream) sync() error {
	err := s.pipeline.Sync()
	if err == nil && s.memory != nil && cap(*s.memory) <= scratchBytes {
		after := use{of: *s.memory}
		if s.frontend.Send(&after); !after.on {
			outgoing.Put(s.memory)
		}
	}
	s.memory = nil
	return err
}

// use is no message: it sees whether the frontend still has a buffer. It gives large
// ones up once they are written.
type use struct {
	of []byte
	on bool
}

func (*use) Frontend()           {}
func (*use) Decode([]byte) error { return errors.ErrUnsupported }

func (u *use) Encode(dst []byte) ([]byte, error) {
	u.on = unsafe.SliceData(dst) == unsafe.SliceData(u.of)
	return dst, nil
}

// size of the command's messages, and a little more.
func (c *command) size() int {
	size := 128
	for _, p := range c.params {
		size += 4 + len(p)
	}
	return size
}

// flush sends what is queued. After an error the connection is closed.
//
// It ends with a Sync, which inside a transaction commits nothing: where the
// server waits for more behind one, idle_in_transaction_session_timeout ends a
// session whose process was stopped. Elsewhere in a pipeline it would wait, with
// all its locks, for ever.
func (s *stream) flush() error {
	s.steps = append(s.steps, step{command: s.commands, sync: true})
	return s.sync()
}

// end sends the rest and returns an answer per command.
func (s *stream) end() ([]answer, error) {
	answers := make([]answer, s.commands)
	err := s.sync()
	if err == nil {
		err = s.receive(answers)
	}
	if closeErr := s.pipeline.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	return answers, err
}

// receive reads the answers up to the first failure.
func (s *stream) receive(answers []answer) error {
	for _, step := range s.steps {
		result, err := s.pipeline.GetResults()
		if reader, ok := result.(*pgconn.ResultReader); ok && err == nil {
			err = answers[step.command].read(reader)
		}
		if err != nil {
			return failed(step.command, err)
		}
		if step.prepare {
			s.known.names[step.id] = step.name
			s.known.order = append(s.known.order, step.id)
		}
	}
	_, err := s.pipeline.GetResults() // the sync; the failure of a commit has come before
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
	s := preparedOf(conn)
	for _, name := range s.names {
		s.drop = append(s.drop, name)
	}
	clear(s.names)
	s.order = nil
}

// identity tells statements apart: the same text can take other types after a
// column was altered.
func (c *command) identity() string {
	if len(c.types) == 0 && c.path == "" {
		return c.sql
	}
	id := make([]byte, 0, len(c.sql)+4*len(c.types)+len(c.path)+1)
	id = append(id, c.sql...)
	if c.path != "" {
		id = append(append(id, 0), c.path...)
	}
	for _, oid := range c.types {
		id = binary.BigEndian.AppendUint32(id, oid)
	}
	return string(id)
}
