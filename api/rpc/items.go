package rpc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

var (
	errItemTooLarge = errors.New("the item is larger than api.max_item_bytes")
	errNoRoom       = errors.New("rpc: no room for a large item in time")
)

// syntaxError: the items cannot be told apart any more.
type syntaxError struct{ reason string }

func (e *syntaxError) Error() string { return e.reason }

// itemSmall is how large an item may be that is read without asking for room, and what
// is kept of its buffer for the next one.
const itemSmall = 16 << 10

// itemReader cuts a stream of JSON items into its items, without decoding them.
// It holds one item at a time.
type itemReader struct {
	in    *bufio.Reader
	most  int
	lines bool // one per line; else the elements of one array
	begun bool // array: behind the [
	item  []byte
	// large asks for room for an item beyond itemSmall, and returns what gives it back.
	// nil: there is room.
	large func() (give func(), err error)
	give  func() // nil: nothing was asked for
}

// begin lets go of the item before.
func (r *itemReader) begin() {
	if cap(r.item) > itemSmall {
		r.item = nil
	}
	r.item = r.item[:0]
	r.end()
}

// end gives back what the last item had room for.
func (r *itemReader) end() {
	if r.give != nil {
		r.give()
		r.give = nil
	}
}

// grow sees that there is room for an item of so many bytes.
func (r *itemReader) grow(to int) (err error) {
	switch {
	case to > r.most:
		return errItemTooLarge
	case to > itemSmall && r.give == nil && r.large != nil:
		r.give, err = r.large()
	}
	return err
}

// next returns the bytes of the next item, valid until the call after it, or
// io.EOF behind the last one. Any other error ends the stream; of the item that
// it struck nothing is returned.
func (r *itemReader) next() ([]byte, error) {
	if r.lines {
		return r.nextLine()
	}
	return r.nextElement()
}

// nextLine skips empty lines. The last line may lack its end, the stream not.
func (r *itemReader) nextLine() ([]byte, error) {
	for {
		r.begin()
		for {
			part, err := r.in.ReadSlice('\n')
			if short := r.grow(len(r.item) + len(part) - len("\r\n")); short != nil {
				return nil, short
			}
			r.item = append(r.item, part...)
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
			if line := bytes.TrimSpace(r.item); len(line) > r.most {
				return nil, errItemTooLarge
			} else if len(line) > 0 {
				return line, nil
			}
			if err != nil {
				return nil, io.EOF
			}
			break
		}
	}
}

func (r *itemReader) nextElement() ([]byte, error) {
	c, err := r.skipSpace()
	if err != nil {
		return nil, err
	}
	if !r.begun {
		if c != '[' {
			return nil, &syntaxError{fmt.Sprintf("want an array of mutations, found %q", c)}
		}
		r.begun = true
		if c, err = r.skipSpace(); err != nil {
			return nil, err
		}
		if c == ']' {
			return nil, r.endArray()
		}
		return r.element(c)
	}
	switch c {
	case ']':
		return nil, r.endArray()
	case ',':
		if c, err = r.skipSpace(); err != nil {
			return nil, err
		}
		return r.element(c)
	}
	return nil, &syntaxError{fmt.Sprintf("want ',' or ']' behind a mutation, found %q", c)}
}

// endArray is io.EOF, unless something follows the array.
func (r *itemReader) endArray() error {
	c, err := r.skipSpace()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	if err != nil {
		return err
	}
	return &syntaxError{fmt.Sprintf("found %q behind the array", c)}
}

// skipSpace returns the first byte that is no space. The end of the body is
// io.ErrUnexpectedEOF: within an array there must be more.
func (r *itemReader) skipSpace() (byte, error) {
	for {
		c, err := r.in.ReadByte()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, err
		}
	}
}

// element reads up to the comma or bracket that ends the element, and leaves
// that unread. It counts brackets outside of text and judges nothing else.
func (r *itemReader) element(c byte) ([]byte, error) {
	r.begin()
	depth, text, escaped := 0, false, false
	for {
		switch {
		case text:
			text = escaped || c != '"'
			escaped = !escaped && c == '\\'
		case c == '"':
			text = true
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ',' || c == ']' || c == '}'):
			return bytes.TrimSpace(r.item), r.in.UnreadByte()
		case c == '}' || c == ']':
			depth--
		}
		err := r.grow(len(r.item) + 1)
		if err != nil {
			return nil, err
		}
		r.item = append(r.item, c)
		if c, err = r.in.ReadByte(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}
