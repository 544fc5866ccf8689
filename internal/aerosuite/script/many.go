package script

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Many is what is done with several records, and with the server.
func Many() []Case {
	return []Case{batches(), scans(), truncates(), infos()}
}

// row is a message within a batch.
type row struct {
	*message
	repeat bool
}

// batch frames rows as clients do.
func batch(flags byte, filter *value.Value, rows ...row) []byte {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(rows)))
	data = append(data, flags)
	for n, r := range rows {
		key, _ := r.Field(codec.FieldDigest)
		data = append(binary.BigEndian.AppendUint32(data, uint32(n)), key...)
		if r.repeat {
			data = append(data, 1)
			continue
		}
		const all = 0x02 | 0x04 | 0x08
		data = append(data, all, r.Info1, r.Info2, r.Info3)
		data = binary.BigEndian.AppendUint16(data, uint16(r.Generation))
		data = binary.BigEndian.AppendUint32(data, r.TTL)
		var fields []codec.Field
		for _, f := range r.Fields {
			if f.Type != codec.FieldDigest {
				fields = append(fields, f)
			}
		}
		data = binary.BigEndian.AppendUint16(data, uint16(len(fields)))
		data = binary.BigEndian.AppendUint16(data, uint16(len(r.Ops)))
		for _, f := range fields {
			data = codec.AppendField(data, f.Type, f.Data)
		}
		for n := range r.Ops {
			data = codec.AppendOp(data, &r.Ops[n])
		}
	}
	m := &message{}
	m.info(codec.Info1Read|codec.Info1Batch, 0, 0)
	if filter != nil {
		m.filter(*filter)
	}
	return m.field(codec.FieldBatch, data).frame()
}

func rows(messages ...*message) []row {
	out := make([]row, 0, len(messages))
	for _, m := range messages {
		out = append(out, row{message: m})
	}
	return out
}

func batches() Case {
	c := begin("batch")
	six := l(i(1), l(i(81), i(2), raw("n")), i(6))
	answered := func(m *message) *message { return m.info(0, codec.Info2RespondAll, 0) }
	for _, flags := range []byte{0, codec.BatchRespondAll, codec.BatchRespondAll | 1, 1} {
		c.send(write("batch", "a", set("n", i(5)), set("t", s("x"))), write("batch", "b", set("n", i(6))), remove("batch", "new"), remove("batch", "gone"))
		send := func(filter *value.Value, messages ...*message) {
			c.Requests = append(c.Requests, batch(flags, filter, rows(messages...)...))
		}
		send(nil, get("batch", "a"), get("batch", "gone"), read("batch", "b", bin("n")), read("batch", "b", bin("absent")), read("batch", "a").info(codec.Info1NoBins, 0, 0))
		send(nil, get("batch", "gone"))
		send(&six, get("batch", "a"), get("batch", "b"), get("batch", "gone"))
		send(nil, get("batch", "a").filter(six), get("batch", "b").filter(six))
		send(nil, write("batch", "a", set("n", i(7))), write("batch", "b", op(codec.OpAppend, "n", s("x").Particle())), write("batch", "new", set("n", i(1))))
		send(nil, get("batch", "a"), get("batch", "b"), get("batch", "new"))
		send(nil, write("batch", "a", set("n", i(8))).info(0, codec.Info2CreateOnly, 0), write("batch", "gone", set("n", i(1))).info(0, 0, codec.Info3UpdateOnly))
		send(nil, write("batch", "b", set("n", i(8))).generation(99)) // of two failures either may be the answer
		send(nil, answered(operate("batch", "a", op(codec.OpIncrement, "n", i(1).Particle()), bin("n"))), answered(operate("batch", "b", set("z", i(1)), bin("z"), bin("no"))))
		send(nil, operate("batch", "a", set("q", i(1)), bin("n")), write("batch", "b", set("q", i(1))))
		send(nil, write("batch", "a", set("n", i(1))).ttl(1000), write("batch", "b", set("n", i(6))).filter(six))
		send(nil, write("batch", "b", set("n", i(5))).filter(six)) // rows of one key are done in any order
		send(nil, get("batch", "a"), get("batch", "b"))
		send(nil, remove("batch", "b"), remove("batch", "gone"), remove("batch", "a").generation(77))
		send(nil, get("batch", "a"), get("batch", "b"))
		send(nil, read("batch", "a", bin("n"), bin("t")), read("batch", "a", set("n", i(3))), write("batch", "a", bin("n")))
		send(nil, read("batch", "a"), get("batch", "a").with(bin("n")))
		other := get("batch", "a")
		other.Fields[0].Data = []byte("absent")
		send(nil, other, get("batch", "a"))
		c.Requests = append(c.Requests, batch(flags, nil, row{message: get("batch", "a")}, row{get("batch", "gone"), true}, row{get("batch", "new"), true}))
		c.Requests = append(c.Requests, batch(flags, nil, row{message: write("batch", "r1", set("n", i(1)))}, row{get("batch", "r2"), true}, row{get("batch", "r3"), true}))
		c.send(get("batch", "r1"), get("batch", "r2"), get("batch", "r3"), remove("batch", "r1"), remove("batch", "r2"), remove("batch", "r3"))
	}
	keyed := write("batch", "key", set("n", i(1))).field(codec.FieldKey, keyField(s("mine")))
	c.Requests = append(c.Requests, batch(codec.BatchRespondAll, nil, rows(keyed)...))
	c.send(get("batch", "key"))
	c.Requests = append(c.Requests, batch(codec.BatchRespondAll, nil, rows(get("batch", "key"), get("batch", "key").field(codec.FieldKey, keyField(s("other"))))...))
	empty := (&message{}).info(codec.Info1Read|codec.Info1Batch, 0, 0).field(codec.FieldBatch, []byte{0, 0, 0, 0, 0})
	c.send(empty)
	return c.Case
}

// scan is a message for some partitions.
func scan(set string, partitions []uint16, ops ...codec.Op) *message {
	m := on(set, "", ops...).info(codec.Info1Read, 0, codec.Info3PartitionDone)
	m.Fields = m.Fields[:len(m.Fields)-1]                                                                           // no digest
	m.field(codec.FieldPartitions, uint16Bytes(partitions...)).field(codec.FieldTaskID, uint64Bytes(rand.Uint64())) // two of one number are refused
	return m.field(codec.FieldSocketTimeout, []byte{0, 0, 0x75, 0x30})
}

func scans() Case {
	c := begin("scan")
	var here []uint16
	seen := map[uint16]bool{}
	for n := range 40 {
		key := fmt.Sprint("k", n)
		w := write("scan", key, set("n", i(int64(n))), set("t", s(key)))
		if n%2 == 0 {
			w.field(codec.FieldKey, keyField(s(key)))
		}
		c.send(w)
		d := digest("scan", key)
		if p := uint16(d[0]) | uint16(d[1]&0x0f)<<8; !seen[p] {
			seen[p] = true
			here = append(here, p)
		}
	}
	c.send(write("scan2", "k", set("n", i(1))), write("", "k", set("n", i(1))))
	all := func(m *message) *message { return m.info(codec.Info1GetAll, 0, 0) }
	less := l(i(5), l(i(81), i(2), raw("n")), i(7))
	c.send(all(scan("scan", here)), all(scan("scan", here[:3])), scan("scan", here, bin("n")), scan("scan", here, bin("absent")),
		scan("scan", here, bin("n"), bin("t")), scan("scan", here[:9]).info(codec.Info1NoBins, 0, 0), all(scan("scan", here)).filter(less),
		all(scan("absent", here)), all(scan("", here[:4])), all(scan("scan2", here)), scan("scan", here[:2]), all(scan("scan", []uint16{4096})))
	first := digest("scan", "k3")
	after := all(scan("scan", nil))
	after.Fields[2] = codec.Field{Type: codec.FieldDigests, Data: first}
	c.send(after)
	long := scan("scan", here, bin("aaaaaaaaaaaaaaaa"))
	c.send(long)
	absent := all(scan("scan", here[:2]))
	absent.Fields[0].Data = []byte("absent")
	c.send(absent)
	return c.Case
}

// truncates keeps clear of the millisecond of a truncate: what was written in it
// stays, and servers truncate in the background.
func truncates() Case {
	c := begin("truncate")
	ask := func(names ...string) { c.Requests = append(c.Requests, info(names...)) }
	for _, set1 := range []string{"tr1", "tr2", "tr3", ""} {
		c.send(write(set1, "k", set("n", i(1))), get(set1, "k"))
	}
	c.pause()
	ask("truncate:namespace=test;set=tr1")
	c.pause()
	c.send(get("tr1", "k"), get("tr2", "k"), write("tr1", "k", set("n", i(2))), get("tr1", "k"))
	ask("truncate:namespace=test;set=tr3;lut=1300000000000000000") // nothing is as old
	c.pause()
	c.send(get("tr3", "k"))
	for _, bad := range []string{"truncate:set=x", "truncate:", "truncate", "truncate:namespace=test;set=tr2;lut=x", "truncate:namespace=test;set=tr2;lut=1000000",
		"truncate:namespace=test;set=tr2;lut=9999999999999999999", "truncate:namespace=test;set=tr2;lut=4102444800000000000",
		"truncate-namespace:", "truncate:namespace=test"} {
		ask(bad)
		c.send(get("tr2", "k"))
	}
	c.pause()
	ask("truncate-namespace:namespace=test")
	c.pause()
	c.send(get("tr2", "k"), get("", "k"), get("tr1", "k"))
	return c.Case
}

func infos() Case {
	c := begin("info")
	for _, name := range []string{"absent", "absent:", "absent:a=b", "namespaces", "namespace/test", "edition", "version", "status",
		"statistics", "sindex", "sindex/test", "sindex-list:", "udf-list", "health-outliers",
		"get-config:context=service", "get-config:context=namespace;namespace=test", "get-config:context=namespace;id=test", "get-config:context=absent",
		"get-config:context=namespace;namespace=absent", "services", "peers-clear-std", "cluster-stable:", "cluster-stable",
		"batch-index", "quiesce:", "roster:namespace=test", "sindex-stat:namespace=test;indexname=x", "sindex-exists:namespace=test;indexname=x"} {
		c.Requests = append(c.Requests, info(name))
	}
	c.Requests = append(c.Requests, info("namespaces", "absent", "edition"))
	return c.Case
}
