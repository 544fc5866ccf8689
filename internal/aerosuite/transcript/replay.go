package transcript

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Difference is an answer that was not the one in the transcript.
type Difference struct {
	Index int // of the exchange
	Case  string
	Asked string
	Text  string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: exchange %d: %s\n  %s", d.Case, d.Index, d.Asked, d.Text)
}

// perExchange bounds the wait for one answer.
const perExchange = 30 * time.Second

// Replay sends the requests of t to a server, whose namespace is empty, and
// returns where its answers differ beyond the Rules.
func (t *Transcript) Replay(ctx context.Context, server string) ([]Difference, error) {
	var out []Difference
	p := &player{server: server}
	defer p.hangUp()
	for i := range t.Exchanges {
		e := &t.Exchanges[i]
		req, err := parse(e.Request)
		if err != nil {
			return out, fmt.Errorf("exchange %d: %w", i, err)
		}
		if i > 0 && e.At.Sub(t.Exchanges[i-1].At) >= pause {
			time.Sleep(pause) // as it was played
		}
		at := time.Now()
		answer, err := p.ask(ctx, req, req.again(e.Request))
		if context.Cause(ctx) != nil {
			return out, context.Cause(ctx)
		}
		if errors.Is(err, errAway) {
			return out, err
		}
		if e.Together && err == nil {
			continue
		}
		text := ""
		if err == nil || len(e.Answer) > 0 {
			text = compare(req, e.Answer, e.At, answer, at)
		}
		if err != nil && text != "" {
			text = err.Error()
		}
		if text != "" {
			out = append(out, Difference{Index: i, Case: e.Case, Asked: req.String(), Text: text})
		}
	}
	return out, nil
}

// errAway: the server is not there.
var errAway = errors.New("no connection")

// player is a client that knows nothing of clusters.
type player struct {
	server string
	conn   net.Conn
	in     *bufio.Reader
}

func (p *player) hangUp() {
	if p.conn != nil {
		_ = p.conn.Close() // nothing is under way
	}
	p.conn = nil
}

// ask sends a request and returns what came; after an error it connects anew.
func (p *player) ask(ctx context.Context, r *request, b []byte) (answer []byte, err error) {
	if p.conn == nil {
		if p.conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", p.server); err != nil {
			p.conn = nil
			return nil, fmt.Errorf("%w: %w", errAway, err)
		}
		p.in = bufio.NewReader(p.conn)
	}
	conn := p.conn
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // which ends the wait
	err = p.conn.SetDeadline(time.Now().Add(perExchange))
	if err == nil {
		_, err = p.conn.Write(b)
	}
	if err == nil {
		answer, err = readAnswer(p.in, r, func([]byte) error { return nil })
	}
	if err != nil {
		err = errors.Join(errors.New("no answer"), err)
		p.hangUp()
	}
	return answer, err
}
