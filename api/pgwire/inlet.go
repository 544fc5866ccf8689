package pgwire

import "net"

// unitBytesMax is how much of what a client sends before a Sync is kept to be
// looked at as a whole.
const unitBytesMax = 1 << 20

// inlet holds what a client sent and is not passed on yet, as frames:
//
//	buf: | passed: to be written | held: being looked at | not cut yet |
//	     0                       held                    next          to
type inlet struct {
	c              net.Conn
	buf            []byte
	held, next, to int
}

func newInlet(c net.Conn, first []byte) *inlet {
	in := &inlet{c: c, buf: make([]byte, max(bufferBytes, len(first)))}
	in.to = copy(in.buf, first)
	return in
}

// has reports that n bytes behind next are there.
func (in *inlet) has(n int) bool { return in.to-in.next >= n }

// read makes room for n bytes behind next and reads some. Nothing is to be written
// any more.
func (in *inlet) read(n int) error {
	if in.held > 0 {
		in.to = copy(in.buf, in.buf[in.held:in.to])
		in.next -= in.held
		in.held = 0
	}
	switch need := in.next + n; {
	case need > len(in.buf):
		grown := make([]byte, min(max(need, 2*len(in.buf)), max(need, unitBytesMax+bufferBytes)))
		copy(grown, in.buf[:in.to])
		in.buf = grown
	case in.to == 0 && len(in.buf) > 4*bufferBytes && n <= bufferBytes:
		in.buf = make([]byte, bufferBytes)
	}
	got, err := in.c.Read(in.buf[in.to:])
	in.to += got
	if got > 0 {
		return nil
	}
	return err
}

// rest is what was read behind next.
func (in *inlet) rest() []byte { return in.buf[in.next:in.to] }

// unit are the held bytes.
func (in *inlet) unit() []byte { return in.buf[in.held:in.next] }

// pass marks what is held as to be written.
func (in *inlet) pass() { in.held = in.next }

// unwritten is what is marked so.
func (in *inlet) unwritten() []byte { return in.buf[:in.held] }

// drop forgets what is before next. Nothing is to be written any more.
func (in *inlet) drop() {
	in.to = copy(in.buf, in.buf[in.next:in.to])
	in.held, in.next = 0, 0
}
