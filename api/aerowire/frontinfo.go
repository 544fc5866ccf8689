package aerowire

import (
	"context"
	"strconv"
	"strings"

	"github.com/walproxy/walproxy/api/aerowire/codec"
	"github.com/walproxy/walproxy/sinks"
)

// What a client asks about functions and indexes, and how it makes them, is the
// cluster's: these commands go to one of its nodes as they came. The nodes tell each
// other. ok: this is one of them. An error ends the connection: it may have been done.
func (s *Server) frontInfo(ctx context.Context, name, what string, args map[string]string) (answer string, ok bool, err error) {
	if s.o.Store == nil {
		return "", false, nil
	}
	all := false
	switch what {
	case "query-show", "scan-show":
		return s.jobs.show(args["trid"]), true, nil
	case "query-abort", "scan-abort":
		return s.jobs.abort(args["trid"], false), true, nil
	case "query-abort-all", "scan-abort-all":
		return s.jobs.abort("", true), true, nil
	case "udf-put", "udf-remove", "udf-get", "udf-list", "udf-clear-cache", "sindex-create", "sindex-delete", "sindex-exists", "sindex-list", "sindex":
	case "sindex-stat":
		all = true
	default:
		if !strings.HasPrefix(what, "sindex/") {
			return "", false, nil
		}
		all = true
	}
	if err := s.o.Store.Away(); err != nil {
		return infoFail(codec.Unavailable, "the cluster does not answer"), true, nil
	}
	ctx, cancel := s.patient(ctx)
	defer cancel()
	answers, err := s.o.Store.Info(ctx, name, all)
	switch {
	case err == nil:
		return leastLoaded(answers), true, nil
	case sinks.OutcomeOf(err) == sinks.Unknown && changes(what):
		return "", true, err
	}
	return infoFail(codec.Unavailable, "the cluster does not answer"), true, nil
}

// changes reports that an info command does more than ask.
func changes(what string) bool {
	switch what {
	case "udf-put", "udf-remove", "sindex-create", "sindex-delete":
		return true
	}
	return false
}

// leastLoaded is the answer of the node that has the least of an index yet: it is not
// to be used before that.
func leastLoaded(answers []string) string {
	least, at := 101, 0
	for i, answer := range answers {
		_, rest, ok := strings.Cut(answer, "load_pct=")
		if !ok {
			continue
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(rest)
		}
		if n, err := strconv.Atoi(rest[:end]); err == nil && n < least {
			least, at = n, i
		}
	}
	return answers[at]
}
