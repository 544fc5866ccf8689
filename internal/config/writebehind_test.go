package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/walproxy/walproxy/mutation"
)

const behindYAML = `
pgwire: { upstream: "postgres://db", sink: main, write_behind: { public.orders: { assume_rows: true } } }
sinks:
  main:
    type: postgres
    dsn: "postgres://db/app"
    collections:
      orders: { table: public.orders, key: [id], key_type: int64 }
`

func TestWriteBehind(t *testing.T) {
	c, err := Parse("test.yaml", []byte(behindYAML), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := c.BehindTables()
	if len(got) != 1 || got[0].Schema != "public" || got[0].Name != "orders" || got[0].Collection != "orders" ||
		!slices.Equal(got[0].Key, []string{"id"}) || got[0].KeyType != mutation.KeyInt64 || !got[0].AssumeRows || got[0].Safe {
		t.Errorf("%+v", got)
	}
	if c.PGWire.Transactions != TransactionsPass {
		t.Errorf("transactions: %q", c.PGWire.Transactions)
	}
	for change, want := range map[[2]string]string{
		{"sink: main,", ""}:                                                      "pgwire.sink",
		{"sink: main,", "sink: other,"}:                                          "pgwire.sink",
		{"{ public.orders: {", "{ orders: {"}:                                    "pgwire.write_behind.orders",
		{"table: public.orders", "table: public.items"}:                          "collections has none",
		{"orders: { table", `"o*": { table`}:                                     "collections has none",
		{"write_behind: { public", "gate_timeout: -1s, write_behind: { public"}:  "pgwire.gate_timeout",
		{"write_behind: { public", "sequence_block: -1, write_behind: { public"}: "pgwire.sequence_block",
		{"write_behind: { public", "transactions: all, write_behind: { public"}:  "pgwire.transactions",
		{", write_behind: { public.orders: { assume_rows: true } }", ""}:         "there is none",
		{"\nsinks:", "\nroutes: [{collections: [x], sinks: [main]}]\nsinks:"}:    "routes do not send",
		{"key: [id],", "key: [id], version_column: v,"}:                          "has a version_column",
	} {
		text := strings.Replace(behindYAML, change[0], change[1], 1)
		if text == behindYAML {
			t.Fatalf("%q is not there", change[0])
		}
		if _, err := Parse("test.yaml", []byte(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q for %q: %v, want %q", change[1], change[0], err, want)
		}
	}
}
