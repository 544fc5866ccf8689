package transcript

import "github.com/walproxy/walproxy/api/aerowire/codec"

// Thin returns those exchanges that are about one record each: the first perRecord
// of a record, of the first perSet records of a set. Without records that were in a
// batch, or whose requests have an op of a kind in but, are large, or were together
// with others.
func Thin(exchanges []Exchange, perRecord, perSet int, but ...byte) []Exchange {
	refused := map[string]bool{}
	keys := make([]string, len(exchanges))
	sets := map[string]string{} // of each record
	for i := range exchanges {
		req, err := parse(exchanges[i].Request)
		for _, digest := range req.rows() {
			refused[digest] = true
		}
		if err != nil || req.kind != codec.TypeMessage || req.many() {
			continue
		}
		digest, _ := req.message.Field(codec.FieldDigest)
		set, _ := req.message.Field(codec.FieldSet)
		keys[i] = string(digest)
		sets[keys[i]] = string(set)
		if exchanges[i].Together || len(exchanges[i].Request)+len(exchanges[i].Answer) > requestMax || hasOp(req.message, but) {
			refused[keys[i]] = true
		}
	}
	var out []Exchange
	count, taken := map[string]int{}, map[string]int{}
	for i, key := range keys {
		if key == "" || refused[key] || count[key] >= perRecord {
			continue
		}
		if count[key] == 0 {
			if taken[sets[key]] >= perSet {
				refused[key] = true
				continue
			}
			taken[sets[key]]++
		}
		count[key]++
		out = append(out, exchanges[i])
	}
	return out
}

// rows are the digests in a batch.
func (r *request) rows() (digests []string) {
	if r == nil || r.kind != codec.TypeMessage || !r.isBatch() {
		return nil
	}
	field, ok := r.message.Field(codec.FieldBatch)
	if !ok {
		field, _ = r.message.Field(codec.FieldBatchWithSet)
	}
	b, err := codec.ParseBatch(field, r.message, codec.SizeMax)
	if err != nil {
		return nil
	}
	for i := range b.Rows {
		digests = append(digests, string(b.Rows[i].Digest[:]))
	}
	return digests
}

// requestMax is how large a request and its answer may be.
const requestMax = 4 << 10

func hasOp(m *codec.Message, kinds []byte) bool {
	for i := range m.Ops {
		for _, kind := range kinds {
			if m.Ops[i].Type == kind {
				return true
			}
		}
	}
	return false
}
