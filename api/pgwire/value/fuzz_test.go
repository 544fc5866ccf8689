package value

import "testing"

// FuzzInput: no bytes make it panic, and what is bad has a code and a message.
func FuzzInput(f *testing.F) {
	for _, c := range columns {
		for i, text := range c.texts {
			f.Add(uint8(i), false, []byte(text))
		}
	}
	f.Add(uint8(1), true, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1})
	f.Add(uint8(18), true, []byte{0, 1, 0, 0, 0x40, 0, 0, 2, 0, 5})
	f.Fuzz(func(t *testing.T, which uint8, isBinary bool, raw []byte) {
		from := &builtin[int(which)%len(builtin)]
		list := byOID[arrayOIDs[from.Name]]
		format := Text
		if isBinary {
			format = Binary
		}
		d, verdict, err := Input(from, format, raw, nil)
		if (verdict == Bad) != (err != nil) || err != nil && (len(err.Code) != 5 || err.Message == "") {
			t.Fatalf("%s: %v, %v", from.Name, verdict, err)
		}
		if verdict == Good {
			for i := range builtin {
				for _, modifier := range []int32{-1, 0, 4, 7, 4 + 5<<16 | 2} {
					if _, verdict, err := Assign(d, from, &builtin[i], modifier); (verdict == Bad) != (err != nil) {
						t.Fatalf("%s to %s: %v, %v", from.Name, builtin[i].Name, verdict, err)
					}
				}
			}
		}
		if d, verdict, _ := Input(list, format, raw, nil); verdict == Good && len(d.Elements) > len(raw) {
			t.Fatalf("%d elements of %d bytes", len(d.Elements), len(raw))
		}
	})
}
