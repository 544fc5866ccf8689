package mutation

import (
	"errors"
	"testing"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
)

// TestReadRoutes: the routes are those of the record, whether it has an outline or
// has to be decoded.
func TestReadRoutes(t *testing.T) {
	plain, err := Set("a", String("k"), map[string]any{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	group := &walproxyv1.Group{Members: []*walproxyv1.Group_Member{{Kind: &walproxyv1.Group_Member_Mutation{Mutation: plain}}}}
	var o Outline
	for i, rec := range []*walproxyv1.Record{
		{Format: Format, Routes: []string{"x", "y"}, Body: &walproxyv1.Record_Mutation{Mutation: plain}},
		{Format: Format, Routes: []string{"y"}, Body: &walproxyv1.Record_Group{Group: group}},
		{Format: Format, Routes: []string{"x"}, Body: &walproxyv1.Record_Group{Group: group}},
	} {
		payload, err := Encode(nil, rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.ReadRoutes(payload); err != nil {
			t.Fatal(err)
		}
		if x, y := o.Routed("x"), o.Routed("y"); x != (i != 1) || y != (i != 2) {
			t.Errorf("record %d goes to x: %v, to y: %v", i, x, y)
		}
	}
	if err := o.ReadRoutes([]byte{0xff}); !errors.Is(err, ErrEncoding) || o.Routed("x") {
		t.Errorf("of no record: %v, goes to x: %v", err, o.Routed("x"))
	}
}
