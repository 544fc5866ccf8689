package pgwire

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// What a session prepared elsewhere is made on its connection not only where it is used,
// for what a text means depends on the settings it is read under.

// gather has the connection make what the session has prepared elsewhere, before a text
// may change how texts are read: prepared after that they could mean something else, or be
// refused. In a transaction that has failed nothing can be made, or changed.
func (l *link) gather(out []byte) []byte {
	h := &l.mu.held
	if h.tx == txFailed || h.gathered {
		return out
	}
	h.gathered = true
	for _, name := range slices.Sorted(maps.Keys(h.sent)) {
		if name != "" {
			out, _ = l.lend(out, name)
		}
	}
	return out
}

// lacking are the session's statements that a connection has not, prepared under other
// settings than there are now.
func (h *held) lacking(k *stock) (list []*remade) {
	if !h.older {
		return nil
	}
	reading := h.reading()
	for name, p := range h.made {
		if a := k.has[p.ours]; name != "" && p.reading != reading && p.frame != nil && (a == nil || a.going || !a.sure) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *remade) int { return cmp.Or(cmp.Compare(a.reading, b.reading), cmp.Compare(a.ours, b.ours)) })
	return list
}

// remake prepares statements on a connection that no session has, as they were read.
func (b *backend) remake(ctx context.Context, list []*remade) error {
	for _, p := range list {
		if b.worn != p.reading {
			if err := b.dress(ctx, p.reading); err != nil {
				return err
			}
		}
		out := appendFrame(nil, cClose, appendText([]byte{'S'}, p.ours))
		out = append(p.appendAs(out, p.ours), appendFrame(nil, cSync, nil)...)
		err := b.within(ctx, func() error { _, err := b.command(out); return err })
		if _, refused := errors.AsType[*serverError](err); err != nil && !refused {
			return err
		}
		b.stock.uses++
		b.stock.has[p.ours] = &article{sure: err == nil, used: b.stock.uses}
	}
	return nil
}

// appendAs appends the Parse that makes a statement, by another name.
func (p *remade) appendAs(b []byte, name string) []byte {
	tail := p.tail()
	return append(appendText(appendHead(b, cParse, int64(len(name)+1+len(tail))), name), tail...)
}

// before has what is prepared for the current request be a request of its own before it.
func (l *link) before(prepare func(out []byte) []byte) (out []byte) {
	h := &l.mu.held
	then := h.current
	h.current = &request{own: true}
	if out = prepare(nil); len(h.current.ops) > 0 {
		out = appendFrame(out, cSync, nil)
		h.queue = append(h.queue, h.current)
	}
	h.current = then
	return out
}

// translateQuery is for a session that has named statements.
func (l *link) translateQuery(body int64, b []byte) (out []byte, instead int) {
	h := &l.mu.held
	if !h.prepared() {
		return nil, 0
	}
	var text statement.Text
	t := unreadable
	if sql, _, ok := cutString(b); ok && int64(len(b)) == body {
		text = h.statements.Parse(sql, h.backslashes())
		t = traitsOf(text)
	}
	free, sql := "", ""
	out = l.before(func(out []byte) []byte {
		if t.sets && !(len(text.Statements) == 1 && text.Statements[0].Kind == statement.Discard) {
			out = l.gather(out)
		}
		free, sql = l.free(text, &out)
		return out
	})
	if sql == "" {
		return out, 0
	}
	h.current.frees = append(h.current.frees, free)
	return appendFrame(out, cQuery, appendText(nil, sql)), headBytes + len(b)
}

// free returns what closes the session's statement that a text is to close, in SQL by its
// name, and that; "": it closes none.
func (l *link) free(text statement.Text, out *[]byte) (name, sql string) {
	h, k := &l.mu.held, l.mu.behind.stock
	if len(text.Statements) != 1 || text.Statements[0].Kind != statement.Deallocate {
		return "", ""
	}
	name = text.Statements[0].Object
	if name == "" || h.sent[name] == nil || h.tx == txFailed {
		return "", ""
	}
	var ours string
	*out, ours = l.lend(*out, name)
	if k.has[ours] != nil { // it may be there still, if nothing comes of it
		k.has[ours] = &article{used: k.uses}
	}
	h.await(name)
	return name, "DEALLOCATE " + ours
}

// textOf a statement, if it closes one.
func (h *held) textOf(p *remade) (text statement.Text) {
	if !slices.ContainsFunc(p.effects, func(e effect) bool { return e.kind == effectDeallocate }) {
		return text
	}
	_, sql, _, _ := cutTwo(p.frame[headBytes:])
	return h.statements.Parse(sql, h.backslashes())
}
