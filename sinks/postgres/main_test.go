package postgres

import (
	"flag"
	"os"
	"testing"

	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(processEnv); config != "" {
		os.Exit(runProcess(config))
	}
	if os.Getenv("WALPROXY_LONG") == "" {
		// Each script is a store of its own; -rapid.checks still asks for more.
		if err := flag.Set("rapid.checks", "6"); err != nil {
			panic(err)
		}
	}
	minHope, chunkRows, minSort = 1, 3, 2 // so that small batches go that way, too
	pgtest.Main(m)
}
