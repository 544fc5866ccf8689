package statement

import (
	"testing"

	"github.com/walproxy/walproxy/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
