package pgwire

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// dial connects to the first address that takes the connection. Errors of all
// are joined.
func (s *Server) dial(ctx context.Context) (net.Conn, Address, error) {
	var failed []error
	for _, a := range s.o.Upstream.Addresses {
		c, err := s.dialOne(ctx, a)
		if err == nil {
			return c, a, nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", a, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, Address{}, errors.Join(failed...)
}

// keepAlive is how a machine is found to be gone that owes nothing.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

func (s *Server) dialOne(ctx context.Context, a Address) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	began := time.Now()
	d := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, err
	}
	patient(c)
	if s.o.Upstream.TLS != nil && a.Network != "unix" {
		if c, err = s.askTLS(ctx, c, a); err != nil {
			return nil, err
		}
	}
	s.metrics.connectSeconds.Observe(time.Since(began).Seconds())
	return c, nil
}

// askTLS sends an SSLRequest. It closes c with an error.
func (s *Server) askTLS(ctx context.Context, c net.Conn, a Address) (secure net.Conn, err error) {
	defer func() {
		if err != nil {
			_ = c.Close() // nothing was sent
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	request := binary.BigEndian.AppendUint32(nil, 8)
	if _, err := c.Write(binary.BigEndian.AppendUint32(request, codeTLS)); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return nil, fmt.Errorf("its answer to a request for TLS: %w", err)
	}
	switch {
	case answer[0] == 'S':
		config := s.o.Upstream.TLS
		if config.ServerName == "" {
			config = config.Clone()
			if config.ServerName, _, err = net.SplitHostPort(a.Address); err != nil {
				return nil, err
			}
		}
		t := tls.Client(c, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		secure = t
	case answer[0] == 'N' && s.o.Upstream.TLSOptional:
		secure = c
	case answer[0] == 'N':
		return nil, errors.New("it offers no TLS")
	default:
		return nil, fmt.Errorf("it answers a request for TLS with %q", answer[0])
	}
	return secure, c.SetDeadline(time.Time{})
}
