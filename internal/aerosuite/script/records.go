package script

import (
	"bytes"
	"strings"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/api/aerowire/value"
)

// Records is what is done with records and plain bins.
func Records() []Case {
	return []Case{values(), combining(), existence(), generations(), lifetimes(), operations(), keys(), names(), mistakes(), filters()}
}

func geo(text string) value.Particle {
	return value.Particle{Type: value.ParticleGeoJSON, Data: append([]byte{0, 0, 0}, text...)}
}

// values is one of every type, there and back.
func values() Case {
	c := begin("values")
	for n, v := range []value.Value{i(0), i(-1), i(1<<63 - 1), f(1.5), f(0), nan, s(""), s("text"), s("\xff\xfe"), b(), b(1, 2, 3),
		value.OfBool(true), value.OfBool(false), l(), l(i(1), s("a"), l(i(2))), lo(i(3), i(1)), m(0), m(1, s("b"), i(1), s("a"), i(2)),
		m(3, i(1), l()), m(0, b(1), value.Value{})} {
		key := string(rune('a' + n))
		c.send(get("values", key), write("values", key, set("v", v)), get("values", key), read("values", key, bin("v"), bin("w")),
			read("values", key).info(codec.Info1NoBins, 0, 0), write("values", key, set("w", v)), get("values", key),
			operate("values", key, bin("v"), bin("absent")), write("values", key, op(codec.OpWrite, "v", value.Particle{})), get("values", key),
			write("values", key, op(codec.OpWrite, "w", value.Particle{})), get("values", key))
	}
	point := `{"type":"Point","coordinates":[1.5,2.5]}`
	c.send(write("values", "geo", op(codec.OpWrite, "g", geo(point))), write("values", "types",
		op(codec.OpWrite, "java", value.Particle{Type: 7, Data: []byte("x")}), op(codec.OpWrite, "int1", value.Particle{Type: 1, Data: []byte{200}}),
		op(codec.OpWrite, "int4", value.Particle{Type: 1, Data: []byte{255, 255, 255, 255}})), get("values", "types"))
	for _, bad := range []value.Particle{{Type: 1, Data: []byte{1, 2, 3}}, {Type: 2, Data: []byte{1}}, {Type: 17, Data: []byte{2}}, {Type: 17},
		{Type: 20, Data: []byte{0x92, 1}}, {Type: 20, Data: []byte{1}}, {Type: 19, Data: []byte{0x81, 1}}, {Type: 20}, {Type: 99, Data: []byte{1}},
		{Type: 5, Data: []byte{1}}, {Type: 23, Data: []byte{0, 0, 0, 'x'}}, {Type: 23, Data: []byte{0}}, {Type: 19, Data: []byte{0x82, 1, 1, 1, 2}},
		{Type: 20, Data: []byte{0x91, 0xd4, 0xff, 0}}, {Type: 20, Data: []byte{0x91, 0xc1}}, {Type: 20, Data: []byte{0x91, 1, 2}}} {
		c.send(write("values", "bad", op(codec.OpWrite, "v", bad)), get("values", "bad"))
	}
	return c.Case
}

// combining is add, append and prepend on everything.
func combining() Case {
	c := begin("add, append, prepend")
	all := []value.Value{i(5), f(2.5), s("text"), b(1, 2), value.OfBool(true), l(i(1)), m(0, i(1), i(2))}
	for _, kind := range []byte{codec.OpIncrement, codec.OpAppend, codec.OpPrepend} {
		for _, old := range all {
			for _, v := range all {
				c.send(write("combine", "k", set("v", old)), write("combine", "k", op(kind, "v", v.Particle())), get("combine", "k"))
			}
		}
		for _, v := range all {
			c.send(remove("combine", "k"), write("combine", "k", op(kind, "v", v.Particle())), get("combine", "k"))
		}
		c.send(write("combine", "k", op(kind, "v", value.Particle{})), get("combine", "k"))
	}
	c.send(write("combine", "n", set("v", i(1<<63-1))), write("combine", "n", op(codec.OpIncrement, "v", i(1).Particle())), get("combine", "n"))
	return c.Case
}

// existence is create-only and its like, of a record that is there and one that is not.
func existence() Case {
	c := begin("existence")
	for _, flags := range [][3]byte{{}, {0, codec.Info2CreateOnly, 0}, {0, 0, codec.Info3UpdateOnly}, {0, 0, codec.Info3CreateOrReplace},
		{0, 0, codec.Info3ReplaceOnly}, {0, codec.Info2CreateOnly, codec.Info3UpdateOnly}, {0, codec.Info2CreateOnly, codec.Info3CreateOrReplace}} {
		for _, there := range []bool{false, true} {
			c.send(remove("exist", "k"))
			if there {
				c.send(write("exist", "k", set("old", i(1)), set("n", i(1))))
			}
			c.send(write("exist", "k", set("n", i(2))).info(flags[0], flags[1], flags[2]), get("exist", "k"),
				write("exist", "k", op(codec.OpIncrement, "n", i(2).Particle())).info(flags[0], flags[1], flags[2]), get("exist", "k"),
				operate("exist", "k", set("n", i(2)), bin("n")).info(flags[0], flags[1], flags[2]), get("exist", "k"),
				write("exist", "k", op(codec.OpWrite, "n", value.Particle{})).info(flags[0], flags[1], flags[2]), get("exist", "k"))
		}
	}
	touch := codec.Op{Type: codec.OpTouch}
	gone := codec.Op{Type: codec.OpDelete}
	c.send(remove("exist", "t"), remove("exist", "t"), write("exist", "t", touch), write("exist", "t", set("a", i(1))), write("exist", "t", touch),
		get("exist", "t"), operate("exist", "t", touch, bin("a")), operate("exist", "t", bin("a"), gone, bin("a")), get("exist", "t"),
		write("exist", "t", gone), write("exist", "t", set("a", i(1)), gone), get("exist", "t"), write("exist", "t", gone, set("b", i(2))), get("exist", "t"),
		operate("exist", "t", gone, set("c", i(3)), bin("c"), bin("b")).info(0, codec.Info2RespondAll, 0), get("exist", "t"),
		remove("exist", "t"), get("exist", "t"), write("exist", "t", set("a", i(1))), get("exist", "t"))
	return c.Case
}

// generations is what is expected of them.
func generations() Case {
	c := begin("generation")
	greater := func(n uint32, msg *message) *message {
		msg.Generation = n
		return msg.info(0, codec.Info2GenerationGT, 0)
	}
	for n := range uint32(4) {
		c.send(write("gen", "k", set("n", i(int64(n)))).generation(n), get("gen", "k"), write("gen", "k", set("m", i(int64(n)))).generation(n), get("gen", "k"))
		c.send(greater(n, write("gen", "k", set("g", i(int64(n))))), get("gen", "k"), greater(n+2, write("gen", "k", set("g", i(int64(n))))), get("gen", "k"))
	}
	c.send(remove("gen", "k").generation(1), greater(1, remove("gen", "k")), read("gen", "k", bin("n")).generation(77), remove("gen", "absent").generation(1),
		write("gen", "absent", set("n", i(1))).generation(3), get("gen", "absent"), get("gen", "k"), greater(100, remove("gen", "k")), get("gen", "k"))
	c.send(write("gen", "k", set("n", i(1))).generation(1).info(0, codec.Info2GenerationGT, 0), get("gen", "k"))
	return c.Case
}

// lifetimes are expiries.
func lifetimes() Case {
	c := begin("expiry")
	const never, keep = 0xffffffff, 0xfffffffe
	for _, ttl := range []uint32{0, 1000, never, keep, 315360000, 315360001, 0x7fffffff, 5000} {
		for _, next := range []uint32{0, 2000, never, keep} {
			c.send(remove("ttl", "k"), write("ttl", "k", set("n", i(1))).ttl(ttl), get("ttl", "k"), write("ttl", "k", set("n", i(2))).ttl(next), get("ttl", "k"),
				write("ttl", "k", codec.Op{Type: codec.OpTouch}).ttl(ttl), read("ttl", "k").info(codec.Info1NoBins, 0, 0), get("ttl", "k"))
		}
	}
	c.send(get("ttl", "k").ttl(50), get("ttl", "k"), operate("ttl", "k", bin("n"), set("m", i(3))).ttl(9000), get("ttl", "k"))
	return c.Case
}

// operations is several ops in one message, and what is answered to them.
func operations() Case {
	c := begin("operate")
	for _, respond := range []byte{0, codec.Info2RespondAll} {
		k := func(ops ...codec.Op) {
			c.send(operate("operate", "k", ops...).info(0, respond, 0), get("operate", "k"))
		}
		add := op(codec.OpIncrement, "n", i(4).Particle())
		c.send(remove("operate", "k"))
		k(set("n", i(1)), add, bin("n"), op(codec.OpAppend, "t", s("b").Particle()), op(codec.OpPrepend, "t", s("a").Particle()), bin("t"))
		k(add, add, bin("n"), bin("absent"), bin("n"))
		k(set("n", i(100)), op(codec.OpIncrement, "t", i(1).Particle()))
		k(op(codec.OpWrite, "n", value.Particle{}), bin("n"))
		k(set("n", i(1)), bin(""))
		k(bin("n"), bin("t"))
		k(bin("absent"))
		k(codec.Op{Type: codec.OpTouch}, bin("n"))
		k(op(codec.OpWrite, "n", value.Particle{}), op(codec.OpWrite, "t", value.Particle{}))
		k(op(codec.OpWrite, "n", value.Particle{}), op(codec.OpWrite, "t", value.Particle{}))
		k(op(codec.OpWrite, "n", value.Particle{}), bin("n"), set("z", i(1)))
		c.send(operate("operate", "k", set("n", i(7)), bin("")).info(codec.Info1GetAll, respond, 0), get("operate", "k"))
		c.send(operate("operate", "k", set("n", i(8))).info(codec.Info1GetAll, respond, 0), get("operate", "k"))
		c.send(operate("operate", "k", bin(""), bin("n"), set("n", i(9))).info(codec.Info1GetAll, respond, 0), get("operate", "k"))
		c.send(read("operate", "k", bin("n"), bin(""), bin("x")).info(0, respond, 0), read("operate", "k", bin("n")).info(codec.Info1GetAll, respond, 0))
		c.send(write("operate", "k", bin("n"), set("n", i(1))).info(0, respond, 0), read("operate", "k", set("n", i(1))).info(0, respond, 0), get("operate", "k"))
		c.send(write("operate", "new", op(codec.OpWrite, "n", value.Particle{})).info(0, respond, 0), get("operate", "new"),
			operate("operate", "new", bin("n"), set("n", i(1)), bin("n")).info(0, respond, 0), remove("operate", "new"))
	}
	return c.Case
}

func keyField(v value.Value) []byte {
	p := v.Particle()
	return append([]byte{p.Type}, p.Data...)
}

// keys is the user's key, sent along.
func keys() Case {
	c := begin("keys")
	k := func(m *message, v value.Value) *message { return m.field(codec.FieldKey, keyField(v)) }
	for _, v := range []value.Value{s("mine"), i(5), b(1, 2), f(1.5)} {
		c.send(remove("keys", "k"), k(write("keys", "k", set("n", i(1))), v), get("keys", "k"), k(get("keys", "k"), v), k(get("keys", "k"), s("other")),
			k(write("keys", "k", set("n", i(2))), s("other")), k(remove("keys", "k"), s("other")), write("keys", "k", set("n", i(3))), k(get("keys", "k"), i(6)))
	}
	c.send(remove("keys", "k"), write("keys", "k", set("n", i(1))), k(write("keys", "k", set("n", i(2))), s("late")), k(get("keys", "k"), s("early")), get("keys", "k"))
	return c.Case
}

// names of bins, sets and namespaces, good and bad.
func names() Case {
	c := begin("names")
	for _, name := range []string{"a", strings.Repeat("b", 14), strings.Repeat("c", 15), strings.Repeat("d", 16), strings.Repeat("e", 255), "a.b", "ü", "a b", "$x", "a;b"} {
		c.send(write("names", "k", set(name, i(1))), read("names", "k", bin(name)), operate("names", "k", bin(name), set("x", i(1))), get("names", "k"))
	}
	for _, name := range []string{"a.b", strings.Repeat("s", 63), strings.Repeat("t", 64), "a b"} {
		c.send(write(name, "k", set("n", i(1))), get(name, "k"))
	}
	for _, namespace := range []string{"", "absent", "test2", strings.Repeat("n", 32)} {
		m := write("names", "k", set("n", i(1)))
		m.Fields[0].Data = []byte(namespace)
		c.send(m)
		m = get("names", "k")
		m.Fields[0].Data = []byte(namespace)
		c.send(m)
	}
	return c.Case
}

// mistakes are messages that clients do not send.
func mistakes() Case {
	c := begin("mistakes")
	c.send(write("mistake", "k", set("n", i(1))))
	for kind := range byte(24) {
		switch kind {
		case codec.OpHLLRead, codec.OpHLLModify, 6:
			continue // what there is not; see docs/aerospike.md
		}
		o := codec.Op{Type: kind, Name: []byte("n")}
		c.send(read("mistake", "k", o), write("mistake", "k", o), get("mistake", "k"))
		o.Particle, o.Value = value.ParticleInteger, uint64Bytes(1)
		c.send(read("mistake", "k", o), write("mistake", "k", o), operate("mistake", "k", o), get("mistake", "k"), write("mistake", "k", set("n", i(1))))
	}
	c.send(on("mistake", "k"), write("mistake", "k"), read("mistake", "k"), operate("mistake", "k"), get("mistake", "k").with(bin("n")),
		read("mistake", "k").info(codec.Info1NoBins|codec.Info1GetAll, 0, 0), read("mistake", "absent"), read("mistake", "absent", bin("n")),
		write("mistake", "absent"), get("mistake", "absent"))
	short := get("mistake", "k")
	short.Fields[2].Data = short.Fields[2].Data[:19]
	c.send(short)
	keyed := get("mistake", "k")
	keyed.Fields[0], keyed.Fields = keyed.Fields[2], keyed.Fields[1:]
	c.send(keyed)
	c.send(write("mistake", "big", set("n", value.OfBytes(bytes.Repeat([]byte{7}, 1<<20)))), get("mistake", "big"))
	return c.Case
}

// filters are expressions beside requests.
func filters() Case {
	c := begin("filter")
	of := func(name string) value.Value { return l(i(81), i(2), raw(name)) }
	c.send(write("filter", "k", set("n", i(5)), set("t", s("x"))))
	for _, e := range []value.Value{l(i(1), of("n"), i(5)), l(i(1), of("n"), i(6)), l(i(1), of("absent"), i(5)), l(i(3), of("n"), i(4)),
		l(i(1), l(i(81), i(3), raw("t")), s("x")), l(i(1), l(i(81), i(3), raw("n")), s("x")), l(i(16), value.OfBool(true), l(i(1), of("absent"), i(1))),
		l(i(17), l(i(18), l(i(1), l(i(82), raw("g")), i(0))), l(i(5), of("g"), i(9))), l(i(17), l(i(1), l(i(82), raw("n")), i(0)), l(i(5), of("n"), i(9))),
		value.OfBool(true), value.OfBool(false), i(5), l(), l(i(99)), l(i(1), i(1)), l(i(1), i(1), s("a")), l(i(20), i(1), i(2)), s("x"), l(s("x")),
		l(i(1), l(i(20), of("n"), of("t")), i(1))} {
		c.send(get("filter", "k").filter(e), write("filter", "k", set("m", i(1))).filter(e), get("filter", "k"), write("filter", "new", set("m", i(1))).filter(e),
			get("filter", "new"), get("filter", "absent").filter(e), remove("filter", "absent").filter(e), remove("filter", "new").filter(e), get("filter", "new"),
			remove("filter", "new"))
	}
	for _, bad := range [][]byte{{}, {0xc1}, {0x92, 1}, {0x93, 1, 1, 1, 1}} {
		c.send(get("filter", "k").field(codec.FieldFilter, bad), write("filter", "k", set("m", i(2))).field(codec.FieldFilter, bad), get("filter", "k"))
	}
	return c.Case
}
