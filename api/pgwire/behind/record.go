package behind

import (
	"strings"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/internal/pgstatement"
)

// Record is what is logged for one row, to be submitted as a record or, of several
// rows, as the members of a group. path is the session's search_path as it reads.
func (p *Plan) Record(r Row, session *Session) *walproxyv1.Statement {
	s := &walproxyv1.Statement{
		Text:          r.Text.SQL,
		ParameterOids: r.Text.OIDs, // not changed by anybody
		Parameters:    pgstatement.AppendParameters(nil, r.Formats, r.Values),
		Role:          session.Role,
		SearchPath:    session.path(),
		Collection:    p.Table.Collection,
		Key:           r.Key,
	}
	if p.zoned {
		s.Settings = session.settings()
	}
	return s
}

// written is what records of a session have in common, made once.
type written struct {
	path     string
	settings map[string]string // not changed by anybody
}

// path is the search path as it reads.
func (s *Session) path() string {
	if s.written.path == "" {
		s.written.path = joinPath(s.SearchPath)
	}
	return s.written.path
}

func (s *Session) settings() map[string]string {
	if s.written.settings == nil {
		s.written.settings = map[string]string{"TimeZone": s.TimeZone}
	}
	return s.written.settings
}

// joinPath writes a search path so that SET takes it.
func joinPath(path []string) string {
	quoted := make([]string, len(path))
	for i, part := range path {
		quoted[i] = quote(part)
	}
	return strings.Join(quoted, ", ")
}
