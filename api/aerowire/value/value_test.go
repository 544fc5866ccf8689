package value

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Draw returns any storable value.
func draw(depth int) *rapid.Generator[Value] {
	plain := []*rapid.Generator[Value]{
		rapid.Just(Value{}),
		rapid.Map(rapid.Bool(), OfBool),
		rapid.Map(rapid.Int64(), OfInt),
		rapid.Map(rapid.Int64Range(-40, 300), OfInt),
		rapid.Map(rapid.Float64(), OfDouble),
		rapid.Map(rapid.String(), OfString),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), OfBytes[[]byte]),
	}
	if depth == 0 {
		return rapid.OneOf(plain...)
	}
	list := rapid.Custom(func(t *rapid.T) Value {
		items := rapid.SliceOfN(draw(depth-1), 0, 20).Draw(t, "items")
		if rapid.Bool().Draw(t, "ordered") {
			SortItems(items)
			return OfList(items, Ordered)
		}
		return OfList(items, Unordered)
	})
	dict := rapid.Custom(func(t *rapid.T) Value {
		var pairs []Pair
		for _, k := range rapid.SliceOfNDistinct(rapid.Int64(), 0, 20, rapid.ID[int64]).Draw(t, "keys") {
			pairs = append(pairs, Pair{OfInt(k), draw(depth-1).Draw(t, "value")})
		}
		SortPairs(pairs)
		return OfMap(pairs, rapid.SampledFrom([]byte{Unordered, Ordered, Ordered | ByValue}).Draw(t, "order"))
	})
	return rapid.OneOf(append(plain, list, dict)...)
}

func TestEncodingIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := draw(3).Draw(t, "value")
		back, err := Decode(Append(nil, v))
		if err != nil || !same(v, back) {
			t.Fatalf("%+v came back as %+v, %v", v, back, err)
		}
		p, err := v.Particle().Value()
		if err != nil || !same(v, p) {
			t.Fatalf("%+v came back from its particle as %+v, %v", v, p, err)
		}
	})
}

// same is Equal that tells NaN, order flags and kinds apart.
func same(a, b Value) bool { return string(Append(nil, a)) == string(Append(nil, b)) }

func TestCompareIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := draw(2).Draw(t, "a"), draw(2).Draw(t, "b"), draw(2).Draw(t, "c")
		if Compare(a, b) != -Compare(b, a) || Compare(a, a) != 0 {
			t.Fatalf("not symmetric: %+v, %+v", a, b)
		}
		if Compare(a, b) <= 0 && Compare(b, c) <= 0 && Compare(a, c) > 0 {
			t.Fatalf("not transitive: %+v, %+v, %+v", a, b, c)
		}
		if Compare(a, InfinityValue) >= 0 {
			t.Fatalf("%+v is not below infinity", a)
		}
	})
}

func TestOrderOfKinds(t *testing.T) {
	rising := []Value{
		{}, OfBool(false), OfBool(true), OfInt(math.MinInt64), OfInt(-1), OfInt(0), OfInt(math.MaxInt64),
		OfString(""), OfString("a"), OfString("aa"), OfList(nil, 0), OfList([]Value{OfInt(1)}, 0),
		OfList([]Value{OfInt(1), {}}, 0), OfList([]Value{OfInt(2)}, 0), OfMap(nil, 0),
		OfMap([]Pair{{OfInt(9), OfInt(1)}}, 0), OfMap([]Pair{{OfInt(1), OfInt(1)}, {OfInt(2), OfInt(1)}}, 0),
		OfBytes("a"), OfDouble(-1), OfDouble(2.5),
	}
	for i := range rising {
		for j := range rising {
			if got := Compare(rising[i], rising[j]); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("compare %+v with %+v: %d", rising[i], rising[j], got)
			}
		}
	}
	wild := OfList([]Value{OfInt(1), {kind: Wildcard}}, 0)
	if !Equal(wild, OfList([]Value{OfInt(1), OfInt(5), OfInt(6)}, 0)) || Equal(wild, OfList([]Value{OfInt(2), OfInt(5)}, 0)) {
		t.Error("a wildcard matches the rest of a list, behind what is equal")
	}
}

func TestMalformedValues(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":               {},
		"short int":           {0xcd, 1},
		"short string":        {0xa5, 3, 'a'},
		"items that are not":  {0xdd, 0xff, 0xff, 0xff, 0xff},
		"pairs that are not":  {0xdf, 0xff, 0xff, 0xff, 0xff, 1, 2},
		"behind the value":    {1, 2},
		"unused type":         {0xc1},
		"key twice":           {0x82, 1, 1, 1, 2},
		"string that is huge": {0xdb, 0xff, 0xff, 0xff, 0xff, 3},
	} {
		if v, err := Decode(b); err == nil {
			t.Errorf("%s: decoded as %+v", name, v)
		}
	}
	deep := make([]byte, MaxDepth+2)
	for i := range deep {
		deep[i] = 0x91
	}
	if _, err := Decode(deep); err == nil {
		t.Error("nested too deep, and decoded")
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range []Value{{}, OfInt(-7), OfString("x"), OfList([]Value{OfInt(1), OfDouble(2)}, Ordered),
		OfMap([]Pair{{OfString("k"), OfList(nil, 0)}}, Ordered), OfBytes("\x00\xff")} {
		f.Add(Append(nil, v))
	}
	f.Add([]byte{0x93, 0xc7, 0, 1, 2, 1})
	f.Add([]byte{0x92, 1, 0xd4, 0xff, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			return
		}
		enc := Append(nil, v)
		back, err := Decode(enc)
		if err != nil || !same(v, back) {
			t.Fatalf("%x: %+v came back as %+v, %v", b, v, back, err)
		}
	})
}

func FuzzParticle(f *testing.F) {
	for _, v := range []Value{OfInt(-7), OfString("x"), OfBool(true), OfDouble(1), OfList([]Value{OfInt(1)}, 0)} {
		p := v.Particle()
		f.Add(p.Type, p.Data)
	}
	f.Add(byte(ParticleGeoJSON), []byte{0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, '{', '}'})
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		p, err := Particle{kind, data}.Canonical()
		if err != nil {
			return
		}
		again, err := p.Canonical()
		if err != nil || again.Type != p.Type || string(again.Data) != string(p.Data) {
			t.Fatalf("canonical form of %d %x changes: %x, %x, %v", kind, data, p.Data, again.Data, err)
		}
	})
}
