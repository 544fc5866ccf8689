package pgwire

import (
	"context"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// commented returns the W3C context that drivers and frameworks put into a comment at the
// end of a statement, /*key='value',traceparent='00-...'*/ (google.github.io/sqlcommenter/spec);
// an invalid one if there is none. Behind the last "/*" of a text that ends with "*/" all
// is comment: no literal can end so.
func commented(sql string) trace.SpanContext {
	for n := len(sql); n > 0 && strings.IndexByte(" \t\r\n;", sql[n-1]) >= 0; n-- {
		sql = sql[:n-1]
	}
	if !strings.HasSuffix(sql, "*/") {
		return trace.SpanContext{}
	}
	at := strings.LastIndex(sql, "/*")
	if at < 0 || at+len("/**/") > len(sql) {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{}
	for pair := range strings.SplitSeq(sql[at+2:len(sql)-2], ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		key = strings.TrimSpace(key)
		if key != "traceparent" && key != "tracestate" {
			continue
		}
		value, quoted := strings.CutPrefix(strings.TrimSpace(value), "'")
		value, ends := strings.CutSuffix(value, "'")
		value, err := url.PathUnescape(value)
		if quoted && ends && err == nil {
			carrier[key] = value
		}
	}
	if len(carrier) == 0 {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}
