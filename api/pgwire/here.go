package pgwire

import (
	"encoding/binary"

	"github.com/walproxy/walproxy/api/pgwire/statement"
)

// isHere reports whether a text of one statement could be answered here.
func (x *attended) isHere(text statement.Text) bool {
	st := text.Statements[0]
	return st.Write != nil && x.settings.ack != ackOff || x.isControl(st) || x.own(text, st) != nil
}

// maybeHere reports whether all that an extended query executes, or all that it
// prepares, could be answered here. What makes named statements goes to PostgreSQL,
// so that they are there inside of transactions, too, but for those that it does not
// know.
func (x *attended) maybeHere(list []message) bool {
	made, some := map[string]*prepared{}, false
	portals := map[string]bool{}
	for i := range list {
		m := &list[i]
		p := made[m.name]
		if p == nil {
			p = x.lookup(m.name)
		}
		switch m.kind {
		case cParse:
			if p = x.newPrepared(m); p == nil || m.name != "" && !x.makes(p) {
				return false
			}
			made[m.name] = p
		case cBind:
			portals[m.portal] = true
		case cExecute:
			if !portals[m.portal] {
				return false
			}
			some = true
			continue
		case cDescribe:
			if m.object == 'P' {
				if !portals[m.portal] {
					return false
				}
				continue
			}
		case cClose:
			if m.object == 'S' && m.name != "" {
				if !x.detached() {
					return false
				}
				some = true
			}
			continue
		}
		if p == nil || len(p.text.Statements) != 1 || !x.isHere(p.text) {
			return false
		}
		some = some || m.kind != cBind
	}
	return some
}

// here answers an extended query if it can: settled was called. Nothing was done if
// it reports false.
func (x *attended) here(list []message) (done bool, err error) {
	tx, ok := x.mine()
	if !ok {
		return false, nil
	}
	own, writes, controls, closes := 0, 0, 0, 0
	made := map[string]*prepared{}
	for i := range list {
		m := &list[i]
		switch m.kind {
		case cParse:
			m.prepared = x.newPrepared(m)
			if m.name != "" && (m.prepared == nil || !x.makes(m.prepared) || x.lookup(m.name) != nil || made[m.name] != nil) {
				return false, nil // PostgreSQL's to make, or to refuse
			}
			made[m.name] = m.prepared
		case cBind, cDescribe:
			if m.object == 'P' {
				continue
			}
			if m.prepared = made[m.name]; m.prepared == nil {
				m.prepared = x.lookup(m.name)
			}
		case cClose:
			if m.object == 'S' && m.name != "" {
				if !x.detached() || made[m.name] != nil {
					return false, nil
				}
				closes++
			}
			continue
		default:
			continue
		}
		if m.prepared == nil {
			return false, nil
		}
		switch st := m.prepared.text.Statements[0]; {
		case st.Write != nil:
			writes++
		case x.isControl(st):
			controls++
		default:
			own++
		}
	}
	switch {
	case own > 0, closes > 0 && writes+controls == 0:
		if done = writes+controls == 0 && tx != txFailed; done {
			err = x.answerOwn(list, tx)
		} else if writes > 0 {
			x.passes("several", "it comes in one query with a statement of walproxy's own")
		}
	case x.tx != nil || tx == txIdle:
		done, err = x.answerWrites(list)
	case writes > 0:
		x.passes("transaction", "it is in a transaction")
	}
	if done {
		x.closed(list)
		x.deferred(made)
	}
	return done, err
}

// hereSimple is here for a simple query of one statement.
func (x *attended) hereSimple(sql string) (done bool, err error) {
	tx, ok := x.mine()
	if !ok {
		return false, nil
	}
	text := x.parse(sql) // settings may have changed
	if len(text.Statements) != 1 {
		return false, nil
	}
	st := text.Statements[0]
	switch {
	case x.isControl(st):
		return x.control(st, sql, nil, nil)
	case tx == txFailed:
	case st.Write == nil:
		if own := x.own(text, st); own != nil {
			return true, x.answerOwnSimple(own, tx)
		}
	case x.tx != nil || tx == txIdle:
		return x.answerWrite(sql, text)
	default:
		x.passes("transaction", "it is in a transaction")
	}
	return false, nil
}

// mine reports whether it is the endpoint's to answer, and how the session's
// transaction stands. One of PostgreSQL's that has failed is PostgreSQL's.
func (x *attended) mine() (tx byte, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := &x.mu.turn
	tx = t.tx
	if x.tx != nil {
		tx = x.tx.status()
	}
	return tx, t.exact && (!t.pending() || x.lateLocked()) && x.mu.down.between() && t.tx != txFailed && !t.copyIn
}

// answerOwn answers an extended query of statements that are the endpoint's own.
func (x *attended) answerOwn(list []message, tx byte) error {
	ctx, done := x.work(x.t.o.AckTimeout, errAckLate, true)
	defer done()
	var b []byte
	portals, binds := map[string]*answered{}, map[string]*message{}
	for i := range list {
		m := &list[i]
		var a *answered
		if m.prepared != nil {
			a = x.own(m.prepared.text, m.prepared.text.Statements[0])
		}
		switch m.kind {
		case cParse:
			b = appendEmpty(b, sParseComplete)
		case cBind:
			portals[m.portal], binds[m.portal] = a, m
			b = appendEmpty(b, sBindComplete)
		case cDescribe:
			if m.object == 'P' {
				b = appendColumns(b, portals[m.portal].columns, binds[m.portal].resultFormat)
				continue
			}
			b = appendColumns(appendParameters(b, nil), a.columns, inText)
		case cClose:
			b = appendEmpty(b, sCloseComplete)
		case cExecute:
			rows, tag, failed := portals[m.portal].run(ctx)
			if failed != nil {
				return x.fail(b, failed)
			}
			b = appendRows(b, rows, tag)
		}
	}
	x.in.drop()
	return x.say(appendReady(b, tx))
}

func (x *attended) answerOwnSimple(a *answered, tx byte) error {
	ctx, done := x.work(x.t.o.AckTimeout, errAckLate, true)
	defer done()
	rows, tag, failed := a.run(ctx)
	if failed != nil {
		return x.fail(nil, failed)
	}
	var b []byte
	if a.columns != nil {
		b = appendColumns(b, a.columns, inText)
	}
	x.in.drop()
	return x.say(appendReady(appendRows(b, rows, tag), tx))
}

func appendEmpty(b []byte, kind byte) []byte { return append(b, kind, 0, 0, 0, 4) }

// appendParameters appends a ParameterDescription.
func appendParameters(b []byte, types []uint32) []byte {
	b, start := begin(b, sParameters)
	b = binary.BigEndian.AppendUint16(b, uint16(len(types)))
	for _, oid := range types {
		b = binary.BigEndian.AppendUint32(b, oid)
	}
	return finish(b, start)
}

func inText(int) int16 { return 0 }

// appendColumns appends a RowDescription of columns of text, or NoData. They look alike
// in both formats.
func appendColumns(b []byte, columns []string, format func(column int) int16) []byte {
	if columns == nil {
		return appendEmpty(b, sNoData)
	}
	b, start := begin(b, sRowDescription)
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for i, name := range columns {
		b = append(append(b, name...), 0)
		b = append(b, 0, 0, 0, 0, 0, 0)                   // of no table
		b = append(b, 0, 0, 0, 25)                        // text
		b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // of any size, no modifier
		b = binary.BigEndian.AppendUint16(b, uint16(format(i)))
	}
	return finish(b, start)
}

// appendRows appends DataRows and the CommandComplete.
func appendRows(b []byte, rows [][]string, tag string) []byte {
	for _, row := range rows {
		var start int
		b, start = begin(b, sDataRow)
		b = binary.BigEndian.AppendUint16(b, uint16(len(row)))
		for _, value := range row {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
		}
		b = finish(b, start)
	}
	return appendComplete(b, tag)
}

func appendComplete(b []byte, tag string) []byte {
	b, start := begin(b, sCommandComplete)
	return finish(append(append(b, tag...), 0), start)
}
