package statement

import (
	"container/list"
	"sync"
	"unsafe"
)

// MaxTextBytes is the longest text that is looked into. A longer one reads and
// writes anything.
const MaxTextBytes = 1 << 20

// keptTextBytes is the longest text of which a cache keeps anything.
const keptTextBytes = 64 << 10

// Parse says what text is, as a simple query or a Parse message has it.
// backslashes: the session has standard_conforming_strings off, so that a
// backslash escapes in any string; texts with one are then not looked into.
func Parse(text string, backslashes bool) Text {
	t, _ := parse(nil, nil, text, backslashes)
	return t
}

// Cache remembers what texts are by their shapes. Its methods may be called
// concurrently.
type Cache struct {
	mu struct {
		sync.Mutex
		byShape map[string]*list.Element
		recent  list.List // of *shaped, the last used first
		bytes   int
	}
	bytesMax int
	scratch  sync.Pool // of *scratch
}

type shaped struct {
	shape      string
	statements []*Statement
	bytes      int
}

type scratch struct {
	tokens []token
	shape  []byte
}

// NewCache returns a cache of about so many bytes at most.
func NewCache(bytesMax int) *Cache {
	c := &Cache{bytesMax: bytesMax}
	c.mu.byShape = map[string]*list.Element{}
	c.scratch.New = func() any { return &scratch{} }
	return c
}

// Parse is the function Parse, for texts of known shapes without parsing.
func (c *Cache) Parse(text string, backslashes bool) Text {
	t, _ := parse(c, nil, text, backslashes)
	return t
}

// ParseAfter is Parse, and has recent remember the text.
func (c *Cache) ParseAfter(recent *Recent, text string, backslashes bool) Text {
	t, _ := parse(c, recent, text, backslashes)
	return t
}

// Bytes and Len say how much the cache holds.
func (c *Cache) Bytes() int { c.mu.Lock(); defer c.mu.Unlock(); return c.mu.bytes }

// Len is the number of shapes it holds.
func (c *Cache) Len() int { c.mu.Lock(); defer c.mu.Unlock(); return c.mu.recent.Len() }

var nothing = Text{Statements: []*Statement{unknown()}}

// parse reads text; hit: the cache knew its shape.
func parse(cache *Cache, recent *Recent, text string, backslashes bool) (_ Text, hit bool) {
	if len(text) > MaxTextBytes {
		return nothing, false
	}
	s := &scratch{}
	if cache != nil {
		s = cache.scratch.Get().(*scratch)
		defer cache.scratch.Put(s)
	}
	var ok bool
	s.tokens, ok = lex(s.tokens[:0], text)
	defer s.shrink()
	if !ok {
		return nothing, false
	}
	t := Text{Readable: true}
	if t.Literals, ok = literals(nil, text, s.tokens); !ok {
		return nothing, false
	}
	if backslashes && hasBackslash(text, s.tokens) {
		return nothing, false
	}
	if cache == nil || len(text) > keptTextBytes {
		t.Statements = statements(text, s.tokens)
		return t, false
	}
	s.shape = appendShape(s.shape[:0], text, s.tokens)
	if t.Statements = cache.get(s.shape); t.Statements != nil {
		recent.keep(text, s.tokens, backslashes, t.Statements)
		return t, true
	}
	t.Statements = statements(text, s.tokens)
	cache.put(string(s.shape), t.Statements)
	return t, false
}

// shrink lets go of what a long text needed.
func (s *scratch) shrink() {
	if cap(s.tokens) > 1<<14 {
		s.tokens = nil
	}
	if cap(s.shape) > 1<<16 {
		s.shape = nil
	}
}

// hasBackslash: a string that is not E” may have ended elsewhere than lex found.
func hasBackslash(text string, tokens []token) bool {
	for _, t := range tokens {
		if t.kind == tokenString || t.kind == tokenOther {
			for i := t.start; i < t.end; i++ {
				if text[i] == '\\' && text[t.start] != 'e' && text[t.start] != 'E' && text[t.start] != '$' {
					return true
				}
			}
		}
	}
	return false
}

func statements(text string, tokens []token) []*Statement {
	parts := split(text, tokens)
	out := make([]*Statement, 0, len(parts))
	literals := 0
	for _, part := range parts {
		out = append(out, classify(cursor{text: text, tokens: part, literals: literals}))
		for _, t := range part {
			if t.literalKind() != 0 {
				literals++
			}
		}
	}
	return out
}

func (c *Cache) get(shape []byte) []*Statement {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.mu.byShape[unsafe.String(unsafe.SliceData(shape), len(shape))] // looked up, not kept
	if e == nil {
		return nil
	}
	c.mu.recent.MoveToFront(e)
	return e.Value.(*shaped).statements
}

func (c *Cache) put(shape string, statements []*Statement) {
	s := &shaped{shape: shape, statements: statements, bytes: len(shape) + sizeOf(statements)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.bytes > c.bytesMax/8 || c.mu.byShape[shape] != nil {
		return
	}
	c.mu.byShape[shape] = c.mu.recent.PushFront(s)
	c.mu.bytes += s.bytes
	for c.mu.bytes > c.bytesMax {
		last := c.mu.recent.Remove(c.mu.recent.Back()).(*shaped)
		delete(c.mu.byShape, last.shape)
		c.mu.bytes -= last.bytes
	}
}

// sizeOf is about what statements hold in memory, with the cache's own.
func sizeOf(statements []*Statement) int {
	n := 256
	for _, s := range statements {
		n += int(unsafe.Sizeof(*s))
		for _, name := range s.Names {
			n += len(name) + 16
		}
		if w := s.Write; w != nil {
			values := len(w.Sets) + len(w.Where)
			for _, row := range w.Rows {
				values += len(row)
			}
			if w.Conflict != nil {
				values += len(w.Conflict.Sets) + len(w.Conflict.Columns)
			}
			n += int(unsafe.Sizeof(*w)) + values*int(unsafe.Sizeof(Assignment{})) + 32*len(w.Columns)
		}
		if s.Prepared != nil {
			n += sizeOf([]*Statement{s.Prepared})
		}
	}
	return n
}
