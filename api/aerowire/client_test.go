package aerowire_test

import (
	"reflect"
	"testing"

	as "github.com/aerospike/aerospike-client-go/v7"
	"github.com/aerospike/aerospike-client-go/v7/types"
)

func TestPutGetDelete(t *testing.T) {
	c := client(t)
	k := key(t, "demo", "one")
	if _, err := c.Get(nil, k); err == nil || !err.Matches(types.KEY_NOT_FOUND_ERROR) {
		t.Fatalf("of an absent record: %v", err)
	}
	want := as.BinMap{"int": 42, "text": "hello", "float": 1.5, "blob": []byte{0, 255}, "bool": true,
		"list": []any{1, "two", []any{3}}, "map": map[any]any{"a": 1, 2: "b"}}
	if err := c.Put(nil, k, want); err != nil {
		t.Fatal(err)
	}
	rec, err := c.Get(nil, k)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(rec.Bins, want) || rec.Generation != 1 {
		t.Fatalf("generation %d, %#v", rec.Generation, rec.Bins)
	}
	if existed, err := c.Delete(nil, k); err != nil || !existed {
		t.Fatalf("delete: %v, %v", existed, err)
	}
	if existed, err := c.Delete(nil, k); err != nil || existed {
		t.Fatalf("second delete: %v, %v", existed, err)
	}
}
