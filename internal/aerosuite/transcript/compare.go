package transcript

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walproxy/walproxy/api/aerowire/codec"
)

// Rules are what two servers may answer otherwise.
//
//	ends      the end of a record moves with the clock: what is left of it, as of
//	          the request, may differ by endsMax; never stays never
//	rows      the records of a batch may come in any order: they are compared by row
//	records   those of a scan too: they are compared by digest
//	chunks    how records are spread over messages
//	bins      all bins of a record may come in any order; answers to ops may not
//	maps      the entries of a map may come in any order
//	errors    the text of info's errors, and info about the server itself
//	together  requests that were on their way together are not compared
//
// Everything else is the same, byte for byte.
const endsMax = 2 * time.Minute

// epoch is where the wire counts the end of records from.
var epoch = time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)

// answered is one record of an answer.
type answered struct {
	sort string
	text string
	left time.Duration // of the record's life; 0: it never ends
}

// compare returns in what have, which came for a request at haveAt, differs from
// want, which came for it at wantAt; nothing if it does not.
func compare(r *request, want []byte, wantAt time.Time, have []byte, haveAt time.Time) string {
	switch {
	case len(have) == 0 || len(want) == 0:
		if len(have) != len(want) {
			return fmt.Sprintf("answer of %d bytes, want one of %d", len(have), len(want))
		}
		return ""
	case r.kind == codec.TypeInfo:
		return compareInfo(want, have)
	case r.kind != codec.TypeMessage:
		if string(want) != string(have) {
			return fmt.Sprintf("%x, want %x", have, want)
		}
		return ""
	}
	wanted, err := digest(r, want, wantAt)
	if err != nil {
		return fmt.Sprintf("the transcript: %v", err)
	}
	got, err := digest(r, have, haveAt)
	if err != nil {
		return err.Error()
	}
	var out []string
	for i := range max(len(wanted), len(got)) {
		switch {
		case i >= len(got):
			out = append(out, "missing: "+wanted[i].text)
		case i >= len(wanted):
			out = append(out, "too much: "+got[i].text)
		case wanted[i].text != got[i].text:
			out = append(out, fmt.Sprintf("have %s\n  want %s", got[i].text, wanted[i].text))
		case (wanted[i].left == 0) != (got[i].left == 0) || (wanted[i].left-got[i].left).Abs() > endsMax:
			out = append(out, fmt.Sprintf("have %s, %v left, want %v", got[i].text, got[i].left, wanted[i].left))
		}
	}
	return strings.Join(out, "\n  ")
}

// digest makes comparable what was answered.
func digest(r *request, answer []byte, at time.Time) ([]answered, error) {
	all, err := records(answer)
	if err != nil {
		return nil, err
	}
	out := make([]answered, 0, len(all))
	for _, m := range all {
		a := answered{}
		ops := make([]string, 0, len(m.Ops))
		for i := range m.Ops {
			ops = append(ops, fmt.Sprintf("%d:%s", m.Ops[i].Type, render(&m.Ops[i])))
		}
		if r.allBins() {
			slices.Sort(ops)
		}
		fields := make([]string, 0, len(m.Fields))
		for _, f := range m.Fields {
			fields = append(fields, fmt.Sprintf("%d:%x", f.Type, f.Data))
		}
		slices.Sort(fields)
		a.text = fmt.Sprintf("result %d, info %d %d %d, generation %d, row %d, fields %v, %s", byte(m.Result), m.Info1, m.Info2, m.Info3,
			m.Generation, m.Timeout, fields, strings.Join(ops, ", "))
		if m.TTL != 0 {
			a.left = max(1, epoch.Add(time.Duration(m.TTL)*time.Second).Sub(at))
		}
		a.sort = sortKey(r, m)
		out = append(out, a)
	}
	if r.many() {
		slices.SortStableFunc(out, func(a, b answered) int { return strings.Compare(a.sort, b.sort) })
	}
	return out, nil
}

// sortKey: records in front, then partitions that are done, then the end.
func sortKey(r *request, m *codec.Message) string {
	switch {
	case m.Info3&codec.Info3Last != 0:
		return "3"
	case m.Info3&codec.Info3PartitionDone != 0:
		return fmt.Sprintf("2 %08d", m.Generation)
	case r.isBatch():
		return fmt.Sprintf("1 %08d", m.Timeout)
	}
	key, _ := m.Field(codec.FieldDigest)
	return fmt.Sprintf("1 %x", key)
}

// allBins reports whether every bin is asked for.
func (r *request) allBins() bool {
	return r.isScan() || r.isBatch() || r.message.Info1&codec.Info1GetAll != 0
}

// compareInfo compares line by line, but for what servers say of themselves.
func compareInfo(want, have []byte) string {
	wanted, got := infoLines(want), infoLines(have)
	if len(wanted) != len(got) {
		return fmt.Sprintf("%d lines, want %d", len(got), len(wanted))
	}
	var out []string
	for i := range wanted {
		if w, h := infoText(wanted[i]), infoText(got[i]); w != h {
			out = append(out, fmt.Sprintf("have %q\n  want %q", h, w))
		}
	}
	return strings.Join(out, "\n  ")
}

func infoLines(b []byte) []string {
	return strings.Split(strings.TrimSuffix(string(b[min(len(b), codec.ProtoBytes):]), "\n"), "\n")
}

// aboutItself are names whose answers differ between any two servers; that there
// is one is compared.
var aboutItself = []string{"node", "build", "version", "statistics", "service", "features", "namespace/", "get-config", "edition",
	"replicas", "racks", "peers", "sets", "bins", "cluster-stable"}

// infoText is what must be the same of a line.
func infoText(line string) string {
	name, text, _ := strings.Cut(line, "\t")
	upper := strings.ToUpper(text)
	if strings.HasPrefix(upper, "ERROR:") || strings.HasPrefix(upper, "FAIL:") {
		parts := strings.SplitN(upper, ":", 3)
		return name + "\t" + strings.Join(parts[:min(2, len(parts))], ":")
	}
	for _, prefix := range aboutItself {
		if strings.HasPrefix(name, prefix) {
			return fmt.Sprintf("%s\tsays something: %v", name, text != "")
		}
	}
	return line
}
