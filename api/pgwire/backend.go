package pgwire

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// More authentication requests.
const (
	authCleartext    = 3
	authMD5          = 5
	authSASLContinue = 11
)

// backend is a connection to PostgreSQL that the endpoint logged in itself.
type backend struct {
	conn       net.Conn
	address    Address
	key        []byte      // for cancel requests
	parameters []parameter // as told at the login
	in         *inbox

	// Of one that sessions share; stock is nil for others.
	stock       *stock
	login       grantKey
	pool        *pool    // guarded by pools.mu
	owner       uint64   // link.number of the session that had it last
	worn        string   // what is set there, as held.outfit; "": nothing
	reported    *reports // by PostgreSQL
	sequences   bool     // the owner may have drawn from sequences
	born, rests time.Time
	peek        *peek // nil: nobody has looked yet
	at          *loop // that waits for what PostgreSQL says here; nil: none
	berth       int32 // there
}

// parameter is a ParameterStatus.
type parameter struct{ Name, Value string }

// serverError is an ErrorResponse.
type serverError struct {
	code, message string
	frame         []byte // as it came
}

func (e *serverError) Error() string { return fmt.Sprintf("%s (SQLSTATE %s)", e.message, e.code) }

func readError(frame []byte) *serverError {
	e := &serverError{frame: bytes.Clone(frame)}
	for rest := frame[headBytes:]; len(rest) > 0 && rest[0] != 0; {
		text, after, ok := bytes.Cut(rest[1:], []byte{0})
		if !ok {
			break
		}
		switch rest[0] {
		case 'C':
			e.code = string(text)
		case 'M':
			e.message = string(text)
		}
		rest = after
	}
	return e
}

// away reports that PostgreSQL says it is not there for anybody: it starts, stops
// or recovers.
func (e *serverError) away() bool { return e.code == "57P03" || e.code == "57P01" || e.code == "57P02" }

// refusesAll reports that PostgreSQL lets nobody in yet, or any more; 57P01 and 57P02
// may be said to one session alone.
func (e *serverError) refusesAll() bool { return e.code == "57P03" }

// errCannotProve: the endpoint has nothing to show for the client.
var errCannotProve = errors.New("PostgreSQL asks for a proof that walproxy does not have for this user")

// logIn connects to PostgreSQL, sends a startup packet and proves who the user is.
// ctx bounds it.
func (s *Server) logIn(ctx context.Context, packet []byte, with credentials) (_ *backend, err error) {
	b := &backend{}
	if b.conn, b.address, err = s.dial(ctx); err != nil {
		return nil, err
	}
	interrupt := context.AfterFunc(ctx, func() { _ = b.conn.SetDeadline(past) })
	defer func() {
		if !interrupt() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = b.conn.Close() // nobody uses it
		}
	}()
	b.in = newInbox(b.conn)
	if _, err = b.conn.Write(packet); err == nil {
		err = b.authenticate(with)
	}
	if err == nil {
		err = b.settle()
	}
	if err == nil {
		err = b.conn.SetDeadline(time.Time{})
	}
	return b, err
}

// receive returns the next frame that is neither a notice nor an error.
func (b *backend) receive() ([]byte, error) {
	for {
		frame, err := b.in.next()
		switch {
		case err != nil:
			return nil, err
		case frame[0] == sError:
			return nil, readError(frame)
		case frame[0] != sNotice:
			return frame, nil
		}
	}
}

func (b *backend) authenticate(with credentials) error {
	for {
		frame, err := b.receive()
		if err != nil {
			return err
		}
		if frame[0] != sAuthentication || len(frame) < headBytes+4 {
			return fmt.Errorf("message of type %q instead of an authentication request", frame[0])
		}
		switch binary.BigEndian.Uint32(frame[headBytes:]) {
		case authOK:
			return nil
		case authCleartext:
			if with.password == "" {
				return errCannotProve
			}
			err = b.prove(append([]byte(with.password), 0))
		case authMD5:
			if with.password == "" || len(frame) < headBytes+8 {
				return errCannotProve
			}
			inner := md5.Sum([]byte(with.password + with.user))
			outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), frame[headBytes+4:headBytes+8]...))
			err = b.prove([]byte("md5" + hex.EncodeToString(outer[:]) + "\x00"))
		case authSASL:
			if !bytes.Contains(frame[headBytes+4:], []byte(scramPlain+"\x00")) {
				return errors.New("PostgreSQL offers no " + scramPlain)
			}
			err = b.scram(with)
		default:
			return errCannotProve
		}
		if err != nil {
			return err
		}
	}
}

func (b *backend) prove(body []byte) error {
	_, err := b.conn.Write(appendFrame(nil, cPassword, body))
	return err
}

// conversation is the client's side of SCRAM, whatever it starts from.
type conversation struct {
	first func() (string, error)
	final func(challenge string) (string, error)
	check func(final string) error
}

func converse(with credentials) (conversation, error) {
	if with.password != "" {
		client, err := scramClient(with.password)
		if err != nil {
			return conversation{}, err
		}
		c := client.NewConversation()
		return conversation{
			first: func() (string, error) { return c.Step("") },
			final: c.Step,
			check: func(final string) error { _, err := c.Step(final); return err },
		}, nil
	}
	if with.clientKey == nil {
		return conversation{}, errCannotProve
	}
	p := &prover{with: with}
	return conversation{first: func() (string, error) { return p.first(), nil }, final: p.final, check: p.check}, nil
}

func (b *backend) scram(with credentials) error {
	c, err := converse(with)
	if err != nil {
		return err
	}
	first, err := c.first()
	if err != nil {
		return err
	}
	body := append([]byte(scramPlain), 0)
	body = binary.BigEndian.AppendUint32(body, uint32(len(first)))
	if err := b.prove(append(body, first...)); err != nil {
		return err
	}
	challenge, err := b.saslSays(authSASLContinue)
	if err != nil {
		return err
	}
	final, err := c.final(challenge)
	if err != nil {
		return err
	}
	if err := b.prove([]byte(final)); err != nil {
		return err
	}
	answer, err := b.saslSays(authSASLFinal)
	if err != nil {
		return err
	}
	return c.check(answer)
}

func (b *backend) saslSays(kind uint32) (string, error) {
	frame, err := b.receive()
	if err != nil {
		return "", err
	}
	if frame[0] != sAuthentication || len(frame) < headBytes+4 || binary.BigEndian.Uint32(frame[headBytes:]) != kind {
		return "", errors.New("it leaves SCRAM in the middle")
	}
	return string(frame[headBytes+4:]), nil
}

// settle reads up to the first ReadyForQuery.
func (b *backend) settle() error {
	for {
		frame, err := b.receive()
		if err != nil {
			return err
		}
		switch frame[0] {
		case sParameterStatus:
			if name, value, _, ok := cutPair(frame[headBytes:]); ok {
				b.parameters = append(b.parameters, parameter{name, value})
			}
		case sKeyData:
			b.key = bytes.Clone(frame[headBytes:])
		case sReady:
			return nil
		}
	}
}

// command sends frames that end in one Query or Sync and returns the rows that
// PostgreSQL answers with; a null is "". It is for few and small rows.
func (b *backend) command(frames []byte) (rows [][]string, err error) {
	if _, err := b.conn.Write(frames); err != nil {
		return nil, err
	}
	var failed error
	for {
		frame, err := b.in.next()
		if err != nil {
			return nil, errors.Join(failed, err)
		}
		switch frame[0] {
		case sError:
			if failed == nil {
				failed = readError(frame)
			}
		case sDataRow:
			row, err := readRow(frame[headBytes:])
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		case sParameterStatus:
			if name, value, _, ok := cutPair(frame[headBytes:]); ok {
				b.parameters = append(b.parameters, parameter{name, value})
			}
		case sCopyIn, sCopyBoth:
			return nil, errors.New("it begins a COPY")
		case sReady:
			return rows, failed
		}
	}
}

// query runs one statement with text parameters.
func (b *backend) query(sql string, args ...string) ([][]string, error) {
	out := appendFrame(nil, cParse, []byte("\x00"+sql+"\x00\x00\x00"))
	bind := binary.BigEndian.AppendUint16([]byte{0, 0, 0, 0}, uint16(len(args)))
	for _, a := range args {
		bind = binary.BigEndian.AppendUint32(bind, uint32(len(a)))
		bind = append(bind, a...)
	}
	out = appendFrame(out, cBind, append(bind, 0, 0))
	out = appendFrame(out, cExecute, []byte{0, 0, 0, 0, 0})
	return b.command(appendFrame(out, cSync, nil))
}

func readRow(body []byte) (row []string, err error) {
	if len(body) < 2 {
		return nil, io.ErrUnexpectedEOF
	}
	n := int(binary.BigEndian.Uint16(body))
	for body = body[2:]; n > 0; n-- {
		if len(body) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		size := int64(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		if size > int64(len(body)) {
			return nil, io.ErrUnexpectedEOF
		}
		size = max(size, 0)
		row = append(row, string(body[:size]))
		body = body[size:]
	}
	return row, nil
}

// appendFrame appends a message.
func appendFrame(b []byte, kind byte, body []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	return append(b, body...)
}

// appendText appends a string and its end.
func appendText(b []byte, texts ...string) []byte {
	for _, t := range texts {
		b = append(append(b, t...), 0)
	}
	return b
}

// startupPacket of parameters, which are names and values by turns.
func startupPacket(pairs ...string) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 4), 3<<16)
	b = append(appendText(b, pairs...), 0)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// quoteIdentifier and quoteLiteral as PostgreSQL reads them whatever its settings.
func quoteIdentifier(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func quoteLiteral(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
