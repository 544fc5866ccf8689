package pgdrivers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"time"
)

// perExchange bounds the wait for one answer.
const perExchange = 60 * time.Second

// Server is where a transcript is replayed: it asks nobody for a password.
type Server struct{ Addr, User, Database string }

// Replayed is what was answered, exchange by exchange of each connection: messages with
// their heads.
type Replayed [][][][]byte

// Replay sends what a driver sent, each exchange when the one before it is answered.
// It returns what came until then also beside an error.
func (t *Transcript) Replay(ctx context.Context, s Server) (Replayed, error) {
	var all Replayed
	for i, connection := range t.Connections {
		answers, err := s.replay(ctx, connection)
		all = append(all, answers)
		if err != nil {
			return all, fmt.Errorf("%s: connection %d, exchange %d: %w", t.Driver, i, len(answers), err)
		}
	}
	return all, nil
}

func (s Server) replay(ctx context.Context, list []Exchange) (answers [][][]byte, err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // which ends the wait
	in := bufio.NewReader(conn)
	for i := range list {
		e := &list[i]
		if err := conn.SetDeadline(time.Now().Add(perExchange)); err != nil {
			return answers, err
		}
		sent := e.Sent
		if i == 0 {
			sent = append([][]byte{s.startup(sent[0])}, sent[1:]...)
		}
		if _, err := conn.Write(bytes.Join(sent, nil)); err != nil {
			return answers, err
		}
		answer, err := e.answered(in)
		if err != nil {
			return answers, fmt.Errorf("behind %q, want %s: %w", answer, e.Answer, err)
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// answered reads the answer, to where the recorded one ended.
func (e *Exchange) answered(in *bufio.Reader) (answer [][]byte, err error) {
	// Behind the last ReadyForQuery there may be what a Flush asked for.
	readies, got := e.readies(), ""
	rest := e.Answer[strings.LastIndexByte(e.Answer, 'Z')+1:]
	for readies > 0 || len(got) < len(rest) {
		m, err := readMessage(in, true)
		if err != nil {
			return answer, err
		}
		answer = append(answer, m)
		if m[0] == 'Z' {
			if readies--; readies < 0 { // the answer is another one
				return answer, nil
			}
		}
		if got = kinds(got, m[0]); readies > 0 || m[0] == 'Z' {
			got = ""
		}
	}
	return answer, nil
}

// startup is a startup packet as it was, but for user and database.
func (s Server) startup(m []byte) []byte {
	out := append([]byte(nil), m[:8]...)
	fields := bytes.Split(bytes.TrimRight(m[8:], "\x00"), []byte{0})
	for i := 0; i+1 < len(fields); i += 2 {
		name, value := string(fields[i]), string(fields[i+1])
		switch name {
		case "user":
			value = s.User
		case "database":
			value = s.Database
		}
		out = append(append(append(append(out, name...), 0), value...), 0)
	}
	out = append(out, 0)
	binary.BigEndian.PutUint32(out, uint32(len(out)))
	return out
}
