package pgwire

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strings"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// stock is what is prepared on a connection that sessions share. There a statement has
// a name of ours, the same for all sessions that prepare the same text under the same
// settings:
//
//	Parse "1"         -> Parse "walproxy_ab12.."
//	Bind "1"          -> Bind "walproxy_ab12..", with that Parse before it on a connection
//	                     that has it not, whose answer is not passed on
//	Close "1"         -> Close "walproxy_", of nothing
type stock struct {
	has     map[string]*article
	uses    uint64
	unnamed *remade // that PostgreSQL has; nil: none, or not known
}

// article is a statement that a connection has, or may have.
type article struct {
	sure    bool     // it has it
	going   bool     // it is being closed
	request *request // that asked for it last
	used    uint64   // of stock.uses
}

// ourName begins the names of ours. By itself it is nobody's.
const ourName = "walproxy_"

// namedMax bounds whose names a session remembers for errors.
const namedMax = 1_000

// idBytes of a name's hash.
const idBytes = 20

// translates reports that frames of a kind may name a statement.
func translates(kind byte) bool {
	return kind == cParse || kind == cBind || kind == cDescribe || kind == cClose || kind == cSync
}

// waitsFor reports that a frame of such a kind is looked at before any of it is passed on.
func (l *link) waitsFor(kind byte) bool {
	if kind != cQuery {
		return translates(kind)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.held.prepared()
}

// prepared reports that the session has prepared statements with names.
func (h *held) prepared() bool {
	return len(h.sent) > 1 || len(h.sent) == 1 && h.sent[""] == nil
}

// tells reports that so much of a frame's body tells its names, or never will.
func tells(kind byte, body int64, b []byte) bool {
	if int64(len(b)) >= body {
		return true
	}
	switch kind {
	case cQuery:
		return body > statement.MaxTextBytes
	case cBind:
		return bytes.Count(b[:min(len(b), namesBytesMax)], []byte{0}) >= 2 || len(b) >= namesBytesMax
	case cParse:
		return body > preparedBodyMax && (bytes.IndexByte(b[:min(len(b), namesBytesMax)], 0) >= 0 || len(b) >= namesBytesMax)
	}
	return len(b) >= namesBytesMax
}

// translate returns what is passed on in place of the first bytes of a frame, so many of
// them, of whose body b was read. mu is locked.
func (l *link) translate(kind byte, body int64, b []byte) (out []byte, instead int) {
	b = b[:min(int64(len(b)), body)]
	switch kind {
	case cSync:
		return l.thin(nil), 0
	case cQuery:
		return l.translateQuery(body, b)
	case cParse:
		return l.translateParse(body, b)
	case cBind:
		portal, name, rest, ok := cutTwo(b)
		if !ok {
			return nil, 0
		}
		out = l.up.bind[:0]
		if p := l.mu.held.sent[name]; p != nil && p.traits.sets {
			out = l.gather(out)
		}
		out, ours := l.lend(out, name)
		if ours != name {
			out, instead = appendText(appendHead(out, kind, body+int64(len(ours)-len(name))), portal, ours), headBytes+len(b)-len(rest)
		}
		if l.up.bind = out; cap(out) > linkBytes {
			l.up.bind = nil
		}
		return out, instead
	default:
		name, _, ok := cutString(b[min(1, len(b)):])
		if !ok || b[0] != 'S' {
			return nil, 0
		}
		var ours string
		if out, ours = nil, ourName; kind == cDescribe {
			out, ours = l.lend(nil, name)
		} else if name == "" {
			l.mu.behind.stock.unnamed = nil
			return nil, 0
		}
		if ours == name {
			return out, 0
		}
		return appendFrame(out, kind, appendText([]byte{'S'}, ours)), headBytes + len(b)
	}
}

// unsettled reports that a frame names a statement of which it is not known whether
// the session has it: a request that is not answered yet makes or closes it.
func (l *link) unsettled(kind byte, body int64, b []byte) bool {
	if !l.x.pooled || l.up.refusing || kind == cSync || kind == cQuery || !translates(kind) {
		return false
	}
	b = b[:min(int64(len(b)), body)]
	if kind == cBind {
		_, b, _ = cutString(b)
	} else if kind != cParse {
		if len(b) == 0 || b[0] != 'S' {
			return false
		}
		b = b[1:]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &l.mu.held
	if len(h.queue) == 0 {
		return false
	}
	name, _, ok := cutString(b)
	if !ok || h.pending[name] == 0 && h.sent[name] == h.made[name] || kind == cParse && name == "" {
		return false
	}
	return h.current == nil || !slices.ContainsFunc(h.current.ops, func(o op) bool {
		return !o.own && o.kind != cExecute && o.name == name
	})
}

// settle waits until PostgreSQL has answered all requests.
func (l *link) settle() error {
	for {
		l.mu.Lock()
		over := l.mu.closed || l.mu.behind == nil || len(l.mu.held.queue) == 0
		if !over && l.carrier != nil {
			l.mu.Unlock()
			return errUnsettled
		}
		l.mu.awaited = !over
		changed := l.wait()
		l.mu.Unlock()
		if over {
			return nil
		}
		<-changed
	}
}

// settled tells who waits for that. mu is locked.
func (l *link) settled() {
	if l.mu.awaited && (l.mu.behind == nil || len(l.mu.held.queue) == 0) {
		l.mu.awaited = false
		l.change()
	}
}

func appendHead(b []byte, kind byte, body int64) []byte {
	return binary.BigEndian.AppendUint32(append(b, kind), uint32(body+4))
}

func (l *link) translateParse(body int64, b []byte) (out []byte, instead int) {
	h := &l.mu.held
	name, rest, ok := cutString(b)
	if !ok {
		return nil, 0
	}
	p := h.prepare(b, int64(len(b)) == body)
	h.next = op{kind: cParse, name: name, made: p}
	p.reading, p.taint = h.reading(), h.tainted()
	if p.traits.sets {
		out = l.gather(out)
	}
	if name == "" {
		l.mu.behind.stock.unnamed, h.current.unnamed = nil, p
		if free, sql := l.free(h.textOf(p), &out); sql != "" {
			h.current.frees = append(h.current.frees, free)
			_, tail, _ := bytes.Cut(rest, []byte{0})
			return appendFrame(out, cParse, append(appendText(nil, "", sql), tail...)), headBytes + len(b)
		}
		return out, 0
	}
	var ours string
	if h.sent[name] != nil { // PostgreSQL says that there is one already
		out, ours = l.lend(out, name)
		h.next.repeated = true
	} else {
		ours = l.identity(p)
		a, there := l.article(ours)
		switch {
		case there && h.fakes(): // of another session: in its place something that is answered in the same way
			h.next.kind, h.next.faked = cParse, true
			return appendFrame(out, cClose, appendText([]byte{'S'}, ourName)), headBytes + len(b)
		case there || a.used > 0:
			out = l.drop(out, ours, a)
		}
		l.mark(a)
		h.names(ours, name)
		h.next.article = a
	}
	out = appendHead(out, cParse, body+int64(len(ours)-len(name)))
	return appendText(out, ours), headBytes + len(b) - len(rest)
}

// lend sees to it that the connection has a statement of the session's, and returns the
// name that it has there. What is not known keeps its name, which nothing has.
func (l *link) lend(out []byte, name string) ([]byte, string) {
	h, k := &l.mu.held, l.mu.behind.stock
	p := h.sent[name]
	switch {
	case p == nil && strings.HasPrefix(name, ourName):
		return out, name + "?"
	case p == nil:
		return out, name
	case name == "":
		if k.unnamed != p && h.current.unnamed != p && p.frame != nil {
			out = append(out, p.frame...)
			h.current.unnamed, k.unnamed = p, nil
			h.current.add(op{kind: cParse, own: true, made: p})
		}
		return out, name
	}
	ours := p.ours
	if !k.gives(ours, h.current) {
		ours = l.identity(p)
	}
	a, there := l.article(ours)
	h.names(ours, name)
	if there || p.frame == nil {
		return out, ours
	}
	if a.used > 0 {
		out = l.drop(out, ours, a)
	}
	l.mark(a)
	h.current.add(op{kind: cParse, own: true, article: a})
	l.x.s.metrics.poolPrepared.Inc()
	return p.appendAs(out, ours), ours
}

// article finds what the connection has under a name, and makes room if that is none.
func (l *link) article(ours string) (a *article, there bool) {
	h, k := &l.mu.held, l.mu.behind.stock
	k.uses++
	a = k.has[ours]
	switch {
	case a == nil:
		a = &article{}
		k.has[ours] = a
		return a, false
	case !k.gives(ours, h.current):
		return a, false
	}
	a.used, a.request = k.uses, h.current
	return a, true
}

// gives reports that a request finds a statement of that name.
func (k *stock) gives(ours string, r *request) bool {
	a := k.has[ours]
	return a != nil && !a.going && (a.sure || a.request == r)
}

// fakes reports that what a Parse does beside making a statement matters to nobody: it is
// not refused because the transaction has failed, nor is it a transaction's first query.
func (h *held) fakes() bool {
	return h.tx == txIdle && !slices.ContainsFunc(h.queue, func(r *request) bool { return !r.own }) &&
		!h.current.does
}

// mark: it is being prepared.
func (l *link) mark(a *article) {
	a.sure, a.going, a.request, a.used = false, false, l.mu.held.current, l.mu.behind.stock.uses
}

// drop has a statement closed that the connection may have.
func (l *link) drop(out []byte, ours string, a *article) []byte {
	r := l.mu.held.current
	r.add(op{kind: cClose, own: true, name: ours, article: a})
	return appendFrame(out, cClose, appendText([]byte{'S'}, ours))
}

// thin has the statement closed that was used longest ago, if there are too many. It is
// called where nothing names one any more in the request.
func (l *link) thin(out []byte) []byte {
	k, r := l.mu.behind.stock, l.mu.held.current
	if h := &l.mu.held; h.keeps() != "" || h.older || h.taint != 0 { // it could not be made again in the same way
		return out
	}
	for over := len(k.has) - l.x.s.pools.o.MaxStatements; over > 0; over-- {
		var name string
		var oldest *article
		for n, a := range k.has {
			if !a.going && a.request != r && (oldest == nil || a.used < oldest.used) {
				name, oldest = n, a
			}
		}
		if oldest == nil {
			break
		}
		oldest.going = true
		out = l.drop(out, name, oldest)
	}
	return out
}

// identity is the name of ours for a statement that is to be prepared now. A text can mean
// something else under other settings.
func (l *link) identity(p *remade) string {
	h := &l.mu.held
	reading := h.reading()
	if p.ours != "" && (p.frame == nil || p.reading == reading && p.taint == h.tainted()) {
		return p.ours
	}
	if p.generation == 0 {
		p.generation = l.x.s.generation() + 1
	}
	sum := sha256.New()
	number := binary.BigEndian.AppendUint64(nil, p.generation)
	if p.taint = h.tainted(); p.taint != 0 || p.frame == nil { // it is this session's alone
		number = binary.BigEndian.AppendUint64(number, l.number)
		number = binary.BigEndian.AppendUint64(number, p.taint)
	}
	if p.frame == nil {
		number = binary.BigEndian.AppendUint64(number, l.mu.behind.stock.uses)
	}
	sum.Write(binary.BigEndian.AppendUint64(number, uint64(len(reading))))
	sum.Write([]byte(reading))
	sum.Write(p.tail())
	p.ours, p.reading = ourName+hex.EncodeToString(sum.Sum(nil)[:idBytes]), reading
	return p.ours
}

// tainted is the transaction that may have settings of its own, in which a text is read;
// 0: none. What keeps a session on its connection may be such, too: a temporary table
// takes another one's name.
func (h *held) tainted() uint64 {
	if h.taint == 0 && h.lost != "" {
		return math.MaxUint64
	}
	return h.taint
}

// tail is the body of its Parse behind the name.
func (p *remade) tail() []byte {
	if p.frame == nil {
		return nil
	}
	_, tail, _ := bytes.Cut(p.frame[headBytes:], []byte{0})
	return tail
}

// doubt: a statement of the session's may have closed what is prepared.
func (k *stock) doubt() {
	if k == nil {
		return
	}
	for name, a := range k.has { // what comes yet of what was sent before is about the old ones
		k.has[name] = &article{used: max(1, a.used)}
	}
	k.unnamed = nil
}

// answered takes note of the answer to an op about a statement.
func (k *stock) answered(o *op) {
	switch {
	case k == nil:
	case o.kind == cParse && o.article != nil:
		o.article.sure = true
	case o.kind == cClose && o.article != nil:
		if o.article.sure = false; o.article.going && k.has[o.name] == o.article {
			delete(k.has, o.name)
		}
	case o.kind == cParse && o.name == "" && !o.faked:
		k.unnamed = o.made
	}
}

// rename puts the session's own names into an error about its statements.
func (h *held) rename(frame []byte) []byte {
	at := bytes.Index(frame, []byte(ourName))
	if at < 0 || at+len(ourName)+2*idBytes > len(frame) {
		return nil
	}
	ours := string(frame[at : at+len(ourName)+2*idBytes])
	name, known := h.named[ours]
	if bytes.Contains(frame, []byte("\x00C42P05\x00")) { // two may have the same text
		name, known = h.repeats, true
	}
	if !known {
		return nil
	}
	return appendFrame(nil, frame[0], bytes.ReplaceAll(frame[headBytes:], []byte(ours), []byte(name)))
}

// names remembers by which name the session called a statement last.
func (h *held) names(ours, name string) {
	if h.named == nil || len(h.named) > namedMax {
		h.named = map[string]string{}
	}
	h.named[ours] = name
}

// alters reports by its command tag that what was done may have changed the schema: then a
// text may have other types from now on than statements of it that were prepared before.
func alters(tag []byte) bool {
	for _, verb := range []string{"ALTER ", "CREATE ", "DROP ", "SELECT INTO", "DO\x00", "CALL\x00", "IMPORT "} {
		if bytes.HasPrefix(tag, []byte(verb)) {
			return true
		}
	}
	return false
}

// outdated reports that a statement has to be prepared again, for what it yields has
// changed; that depends on no language.
func outdated(body []byte) bool {
	return slices.ContainsFunc(bytes.Split(body, []byte{0}), func(field []byte) bool {
		return string(field) == "RRevalidateCachedQuery"
	})
}
