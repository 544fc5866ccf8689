package behind

import (
	"encoding/binary"
	"time"

	"github.com/walproxy/walproxy/api/pgwire/statement"
	"github.com/walproxy/walproxy/api/pgwire/value"
)

// epoch is what PostgreSQL's binary times count from.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// micros of t since the epoch.
func micros(t time.Time) int64 { return t.UnixMicro() - epoch.UnixMicro() }

// evaluate is what a function returns, in binary.
func (b *binder) evaluate(v *bound) {
	v.format = value.Binary
	timed := func(n int64) {
		v.datum, v.raw = value.Datum{Int: n, Timed: true}, binary.BigEndian.AppendUint64(nil, uint64(n))
	}
	switch v.value.F {
	case statement.TransactionTime:
		timed(micros(b.e.Now))
	case statement.StatementTime:
		timed(micros(b.e.Started))
	case statement.ClockTime:
		if b.e.Clock == nil {
			b.unknown("clock_timestamp")
			return
		}
		timed(micros(b.e.Clock()))
	case statement.LocalTimestamp, statement.CurrentDate:
		if b.session.Location == nil {
			b.unknown("TimeZone")
			return
		}
		local := b.e.Now.In(b.session.Location)
		local = time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), local.Nanosecond(), time.UTC)
		if v.value.F == statement.LocalTimestamp {
			timed(micros(local))
			return
		}
		days := local.Unix()/86400 - epoch.Unix()/86400
		v.datum, v.raw = value.Datum{Int: days, Timed: true}, binary.BigEndian.AppendUint32(nil, uint32(days))
	case statement.RandomUUID:
		id, err := b.e.UUID()
		if err != nil {
			b.unknown("gen_random_uuid")
			return
		}
		v.datum, v.raw = value.Datum{Text: id.String()}, id[:]
	case statement.NextValue:
		if n, ok := b.next(v); ok {
			v.datum, v.raw = value.Datum{Int: n}, binary.BigEndian.AppendUint64(nil, uint64(n))
		}
	}
}

// next draws from a sequence: the one of a default, or one that is named as defaults
// name theirs.
func (b *binder) next(v *bound) (n int64, ok bool) {
	name := v.column.Default.Sequence
	if v.value.N >= 0 {
		name = b.e.Text.Literals[v.value.N].Value
	}
	s := b.sequences[name]
	switch {
	case s == nil || b.e.Next == nil:
	case v.value.N >= 0 && s.Schema != b.Table.Schema: // the role may not see it
	case (v.value.N >= 0 || !v.column.Identity) && !s.May(b.session.Role):
	default:
		n, ok = b.e.Next(s)
	}
	if !ok && b.why == nil {
		b.why = because(Sequence, name)
	}
	return n, ok
}
