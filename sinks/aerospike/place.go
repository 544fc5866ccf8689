package aerospike

import (
	"fmt"
	"path"
	"strings"
	"sync"

	as "github.com/aerospike/aerospike-client-go/v7"

	walproxyv1 "github.com/walproxy/walproxy/api/proto/walproxy/v1"
	"github.com/walproxy/walproxy/mutation"
)

// place is where a collection's records are.
type place struct {
	Place
	digest, sendKey bool
}

// placeOf returns a collection's place. Errors are *mutation.RejectedError: there
// can be no such set.
func (o *Options) placeOf(collection string) (place, error) {
	p := o.mapped(collection)
	if reason := setFault(p.Set); reason != "" {
		return p, &mutation.RejectedError{Field: "collection", Reason: fmt.Sprintf("the set %q %s: map the collection to another", p.Set, reason)}
	}
	if p.Place == o.State {
		return p, &mutation.RejectedError{Field: "collection", Reason: fmt.Sprintf("the set %q is where walproxy keeps its checkpoints", p.Set)}
	}
	if p.Set == claimsSet {
		return p, &mutation.RejectedError{Field: "collection", Reason: fmt.Sprintf("the set %q is where walproxy notes whose sets they are", p.Set)}
	}
	return p, nil
}

func (o *Options) mapped(collection string) place {
	p := place{Place: Place{Namespace: o.Namespace, Set: collection}}
	for _, c := range o.Collections {
		if ok, err := path.Match(c.Pattern, collection); !ok || err != nil {
			continue
		}
		p.digest, p.sendKey = c.Digest, c.SendKey
		if c.Namespace != "" {
			p.Namespace = c.Namespace
		}
		switch {
		case c.NoSet:
			p.Set = ""
		case c.Set == "":
		case c.Set == anySet:
			p.Set = strings.TrimPrefix(collection, strings.TrimSuffix(c.Pattern, "*"))
		default:
			p.Set = c.Set
		}
		break
	}
	return p
}

// places are the sets that were written to, each by one collection: two of them
// would have the same records, and one would take the other's writes for its own.
type places struct {
	mu    sync.Mutex
	taken map[Place]string
}

// take notes that a collection is in a place. Errors are *mutation.RejectedError:
// another one is.
func (t *places) take(p Place, collection string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken == nil {
		t.taken = map[Place]string{}
	}
	other, ok := t.taken[p]
	if ok && other != collection {
		return &mutation.RejectedError{Field: "collection", Reason: fmt.Sprintf("its set %q is that of collection %q: map them to different ones", p.Set, other)}
	}
	if !ok {
		bounded(t.taken)[p] = collection
	}
	return nil
}

// keyOf returns a record's key there. Errors are *mutation.RejectedError.
func (o *Options) keyOf(collection string, key *walproxyv1.Key) (*as.Key, place, error) {
	p, err := o.placeOf(collection)
	if err != nil {
		return nil, p, err
	}
	if p.digest {
		digest, ok := key.GetKind().(*walproxyv1.Key_Bytes)
		if !ok || len(digest.Bytes) != 20 {
			return nil, p, &mutation.RejectedError{Field: "key", Reason: "is no digest of 20 bytes, as the keys of this collection are"}
		}
		k, err := as.NewKeyWithDigest(p.Namespace, p.Set, nil, digest.Bytes)
		if err != nil {
			return nil, p, &mutation.RejectedError{Field: "key", Reason: err.Error()}
		}
		return k, p, nil
	}
	user, err := userKey(key)
	if err != nil {
		return nil, p, err
	}
	k, failed := as.NewKey(p.Namespace, p.Set, user)
	if failed != nil {
		return nil, p, &mutation.RejectedError{Field: "key", Reason: failed.Error()}
	}
	return k, p, nil
}

// userKey is a key as Aerospike has it: text, integer or bytes. A composite one is
// the bytes of its encoding (mutation.AppendKey without a collection), which order
// as its parts do.
func userKey(key *walproxyv1.Key) (any, error) {
	switch k := key.GetKind().(type) {
	case *walproxyv1.Key_String_:
		return k.String_, nil
	case *walproxyv1.Key_Int64:
		return k.Int64, nil
	case *walproxyv1.Key_Bytes:
		return k.Bytes, nil
	case *walproxyv1.Key_Composite_:
		prefix := mutation.AppendCollection(nil, "")
		return mutation.AppendKey(nil, "", key)[len(prefix):], nil
	}
	return nil, &mutation.RejectedError{Field: "key", Reason: "is of an unknown kind"}
}
