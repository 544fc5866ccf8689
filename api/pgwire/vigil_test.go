//go:build unix

package pgwire

import (
	"net"
	"runtime"
	"testing"
)

// TestVigil: it returns with what came, and in vain soon; behind times in vain it waits
// less and less often, until something comes. At the end of the connection it does nothing.
func TestVigil(t *testing.T) {
	if runtime.GOMAXPROCS(0) == 1 {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v := newVigil(c)
	looked := 0
	look := v.look
	v.look = func(fd uintptr) bool {
		looked++
		return look(fd)
	}
	keep := func(times int) (looks int) {
		before := looked
		for range times {
			v.keep()
		}
		return looked - before
	}
	for i, skips := range []int{1, 3, 7, 15, 15} {
		if looks := keep(1 + skips); looks != 1 || v.came {
			t.Errorf("time %d in vain and %d behind it: looked %d times; something came: %v", i+1, skips, looks, v.came)
		}
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for !v.came { // it is on its way
		v.keep()
	}
	if looks := keep(3); looks != 3 || !v.came {
		t.Errorf("with something there: looked %d times of 3; came: %v", looks, v.came)
	}
	var one [2]byte
	if n, err := c.Read(one[:]); n != 1 || err != nil {
		t.Errorf("read behind it: %d, %v", n, err)
	}
	if looks := keep(2); looks != 1 || v.came {
		t.Errorf("in vain behind that: looked %d times of 2; came: %v", looks, v.came)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for !v.came { // its end
		v.keep()
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if looks := keep(2); looks != 0 {
		t.Errorf("closed: looked %d times", looks)
	}
	if v := newVigil(&net.IPConn{}); v.raw != nil {
		t.Error("it waits for another sort of connection")
	} else {
		v.keep()
	}
}

// TestAlone: who has written behind some times in a row without anybody between is alone,
// until another one writes.
func TestAlone(t *testing.T) {
	tables := &tables{}
	a, b := &attended{t: tables}, &attended{t: tables}
	for i := range 2 * aloneMin {
		if want := i > aloneMin; a.isAlone() != want {
			t.Errorf("behind %d writes: alone %v, want %v", i, a.isAlone(), want)
		}
		a.countAlone()
	}
	for range 2 * aloneMin {
		b.countAlone()
	}
	if a.isAlone() || !b.isAlone() {
		t.Errorf("another one took over: alone %v, and that one %v", a.isAlone(), b.isAlone())
	}
	for range 2 * aloneMin {
		a.countAlone()
		b.countAlone()
		if a.isAlone() || b.isAlone() {
			t.Fatal("alone, and in turns with another one")
		}
	}
}
