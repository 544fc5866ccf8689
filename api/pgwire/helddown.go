package pgwire

import (
	"bytes"
	"slices"
)

// What becomes of a frame that PostgreSQL sent.
type verdict uint8

const (
	passed   verdict = iota
	dropped          // the client is not told
	asParsed         // it is told ParseComplete
)

// server takes note of a frame that PostgreSQL sent.
func (h *held) server(kind byte, body []byte) verdict {
	if kind == sParameterStatus {
		if name, value, _, ok := cutPair(body); ok {
			h.report(name, value)
		}
		return passed
	}
	r := h.current
	if len(h.queue) > 0 {
		r = h.queue[0]
	}
	if r == nil {
		if kind == sReady {
			h.lose("an answer to nothing")
		}
		return passed
	}
	if r.own {
		return h.owned(kind, r)
	}
	switch kind {
	case sParseComplete, sCloseComplete, sEmptyQuery, sSuspended:
		return h.answered(r)
	case sCommandComplete:
		r.rolled = bytes.HasPrefix(body, []byte("ROLLBACK"))
		h.altered = h.altered || h.stock != nil && alters(body)
		h.answered(r)
	case sError:
		r.failed = true
		if i := slices.IndexFunc(r.ops[r.done:], func(o op) bool { return o.repeated }); i >= 0 {
			h.repeats = r.ops[r.done+i].name
		}
		h.outdated = h.outdated || h.stock != nil && outdated(body)
		h.void(r)
	case sCopyIn, sCopyBoth:
		if !r.simple || kind == sCopyBoth {
			h.lose("a COPY by the extended protocol") // Syncs may go without an answer
			h.copies(r)
		}
	case sReady:
		if len(h.queue) == 0 {
			h.lose("an answer to nothing")
			return passed
		}
		h.pop()
		h.had(r)
		h.finish(r, body)
	}
	return passed
}

func (h *held) pop() {
	switch h.queue[0] = nil; {
	case len(h.queue) > 1:
		h.queue = h.queue[1:]
	case cap(h.queue) > 64:
		h.queue = nil
	default:
		h.queue = h.queue[:0]
	}
}

// owned: the answer is to a request of the link's own.
func (h *held) owned(kind byte, r *request) verdict {
	switch kind {
	case sReady:
		h.pop()
	case sParseComplete, sCloseComplete:
		h.answered(r)
	case sError:
		if r.simple {
			h.unfit = "PostgreSQL could not make it ready for another session"
		}
		h.void(r) // a statement that cannot be prepared any more, as its next use is told
	case sNotice, sNotification:
		return passed
	}
	return dropped
}

// copies: PostgreSQL reads the data of a COPY, and ignores a Sync before its end.
func (h *held) copies(r *request) {
	switch {
	case h.stock == nil || r.copied || len(h.queue) == 0:
	case len(h.queue) == 1 && h.current == nil:
		h.queue, h.current = nil, r
	default:
		h.unfit = "requests behind a COPY by the extended protocol"
	}
}

// answered: the oldest message without an answer has it.
func (h *held) answered(r *request) verdict {
	if r.simple || r.done >= len(r.ops) {
		return passed
	}
	o := &r.ops[r.done]
	r.done++
	h.stock.answered(o)
	became := passed
	switch {
	case o.own:
		became = dropped
	case o.faked:
		became = asParsed
	}
	h.note(r, o)
	h.trim(r)
	return became
}

// note takes note of what a message has done that is answered.
func (h *held) note(r *request, o *op) {
	if o.own {
		return
	}
	switch o.kind {
	case cParse:
		h.keep(o.name, o.made)
	case cClose:
		h.keep(o.name, nil)
	case cExecute:
		for _, e := range o.of {
			if e.kind == effectDeallocate { // which no transaction takes back
				h.apply(e)
			} else if n := len(r.effects); n > settingsMax {
				h.lose("too many settings in a transaction")
			} else if n == 0 || r.effects[n-1] != e {
				r.effects = append(r.effects, e)
			}
		}
		r.more = r.more || r.done > 1
		r.amid, r.ended = r.amid || r.ended, r.ended || o.ends
	}
}

// keep takes note of a statement that is prepared; nil: it is not any more.
func (h *held) keep(name string, p *remade) {
	if old := h.made[name]; old != nil {
		h.bytes -= len(old.frame)
		delete(h.made, name)
	}
	if p != nil {
		h.made[name] = p
		h.unreviewed = h.unreviewed || p.taint != 0
		if h.bytes += len(p.frame); h.bytes > preparedBytesMax {
			h.lose("too many prepared statements")
		}
	}
}

// void: PostgreSQL skips what is left of a request.
func (h *held) void(r *request) {
	for _, o := range r.ops[r.done:] {
		switch {
		case o.own && o.kind == cClose:
			o.article.going, o.article.sure = false, false
		case o.own || o.kind == cExecute:
		case o.kind == cParse && o.name == "": // it may be what failed, which drops the one before
			h.keep("", nil)
			h.unsend(o)
		default:
			h.unsend(o)
		}
	}
	r.done = len(r.ops)
}

// unsend: a Parse or a Close was skipped. One of the same name may have been passed on
// since.
func (h *held) unsend(o op) {
	switch {
	case h.sent[o.name] != o.made:
	case h.made[o.name] != nil:
		h.sent[o.name] = h.made[o.name]
	default:
		delete(h.sent, o.name)
	}
}

// finish takes note of what a request has done, once it is over.
func (h *held) finish(r *request, status []byte) {
	before := h.tx
	if len(status) > 0 {
		h.tx = status[0]
	}
	defer h.review()
	if h.altered && h.tx == txIdle {
		h.altered, h.outdated = false, true
	}
	if h.tainting == nil || h.tainting == r {
		if h.tainting = nil; h.tx == txIdle {
			h.taint = 0
		}
	}
	if r.closes {
		h.keep("", nil)
	}
	if r.simple && !r.failed {
		r.effects = slices.DeleteFunc(r.effects, func(e effect) bool {
			if e.kind == effectDeallocate {
				h.apply(e)
			}
			return e.kind == effectDeallocate
		})
	}
	all := len(r.effects)
	r.effects = slices.DeleteFunc(r.effects, func(e effect) bool { return e.kind == effectRollbackTo })
	settings := len(r.effects) > 0
	h.murky = h.murky || len(r.effects) < all && (settings || len(h.inside) > 0)
	if (r.amid || r.ended && r.failed) && (settings || len(h.inside) > 0) {
		h.lose("settings of a transaction that ended amid other statements")
	}
	switch {
	case h.tx != txIdle:
		h.inside = append(h.inside, r.effects...)
		h.murky = h.murky || r.failed && settings
		if len(h.inside) > settingsMax {
			h.lose("too many settings in a transaction")
			h.inside = nil
		}
		return
	case r.failed || r.rolled || before == txFailed:
		// Rolled back, if that was all.
		if settings && (r.more || !r.failed) {
			h.lose("settings that were rolled back in parts")
		}
	default:
		if h.murky {
			h.lose("settings that were rolled back in parts")
		}
		for _, e := range append(h.inside, r.effects...) {
			h.apply(e)
		}
	}
	h.inside, h.murky = nil, false
}
