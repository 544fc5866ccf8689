package pgwire

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walproxy/walproxy/internal/vfs"
)

// roster knows who may log in while PostgreSQL is away: by whose secret, and as
// whom it was let in when it was there, which is what pg_hba.conf and PostgreSQL's
// grants say. A login that PostgreSQL never granted is not granted here.
type roster struct {
	fixed map[string]Secret // from the configuration
	file  string            // "": nothing is kept on disk

	mu struct {
		sync.Mutex
		asked   map[string]Secret // of the auth query
		granted map[grantKey]*grant
		changed bool // since it was written
	}
}

// grantKey is a login as PostgreSQL granted it; parameters is what else its startup
// packet asked for, on which the ParameterStatus depend.
type grantKey struct{ User, Database, Parameters string }

// grant is what a login was told. It is never changed, but replaced.
type grant struct {
	Parameters []parameter
	Trusted    bool     // PostgreSQL asked for nothing
	Known      []string // what a session is in PostgreSQL, if one was asked: see known
	Used       time.Time
}

// grantsMax bounds the roster: the logins longest ago are forgotten.
const grantsMax = 10_000

func newRoster(fixed map[string]Secret, file string) *roster {
	r := &roster{fixed: fixed, file: file}
	r.mu.asked, r.mu.granted = map[string]Secret{}, map[grantKey]*grant{}
	return r
}

// secret of a user; false: unknown.
func (r *roster) secret(user string) (Secret, bool) {
	if s, ok := r.fixed[user]; ok {
		return s, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.mu.asked[user]
	return s, ok
}

// learn takes an answer of the auth query: "" has no secret.
func (r *roster) learn(user, text string) error {
	secret, err := Secret{}, error(nil)
	if text != "" {
		secret, err = ParseSecret(text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, had := r.mu.asked[user]
	switch {
	case text == "" || err != nil:
		delete(r.mu.asked, user)
		r.mu.changed = r.mu.changed || had
	case !had || old.verifierText() != secret.verifierText():
		r.mu.asked[user] = secret
		r.mu.changed = true
	}
	return err
}

// users that the auth query is for: those who were let in.
func (r *roster) users() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	users := map[string]bool{}
	for k := range r.mu.granted {
		if _, ok := r.fixed[k.User]; !ok {
			users[k.User] = true
		}
	}
	for u := range r.mu.asked { // whose grant was forgotten
		if !users[u] {
			delete(r.mu.asked, u)
		}
	}
	return slices.Sorted(maps.Keys(users))
}

func keyOf(st *startup) grantKey {
	var rest []string
	for _, p := range st.parameters {
		switch p.Name {
		case "user", "database", "application_name", "replication":
		default:
			rest = append(rest, p.Name+"="+p.Value)
		}
	}
	slices.Sort(rest)
	return grantKey{st.user, st.database, strings.Join(rest, "\x00")}
}

// grant takes note of a login that PostgreSQL let in.
func (r *roster) grant(st *startup, parameters []parameter, trusted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := keyOf(st)
	old := r.mu.granted[key]
	if old == nil && len(r.mu.granted) >= grantsMax {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(r.mu.granted)), func(a, b grantKey) int {
			return cmp.Compare(r.mu.granted[a].Used.UnixNano(), r.mu.granted[b].Used.UnixNano())
		})
		delete(r.mu.granted, oldest)
	}
	// The time of use alone is not worth a write.
	r.mu.changed = r.mu.changed || old == nil || old.Trusted != trusted || !slices.Equal(old.Parameters, parameters)
	g := &grant{Parameters: parameters, Trusted: trusted, Used: time.Now()}
	if old != nil && slices.Equal(old.Parameters, parameters) {
		g.Known = old.Known
	}
	r.mu.granted[key] = g
}

// granted is what PostgreSQL said to such a login; nil: it let none in.
func (r *roster) granted(st *startup) *grant {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.granted[keyOf(st)]
}

// any login that PostgreSQL let in; false: there was none.
func (r *roster) any() (grantKey, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.mu.granted {
		return key, true
	}
	return grantKey{}, false
}

// revoke: PostgreSQL lets the login in no more.
func (r *roster) revoke(key grantKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.mu.granted[key]; ok {
		delete(r.mu.granted, key)
		r.mu.changed = true
	}
}

// rosterFile is what is kept on disk.
type rosterFile struct {
	Version int
	Secrets map[string]string
	Granted []rosterGrant
}

type rosterGrant struct {
	grantKey
	grant
}

// rosterBytesMax bounds the file.
const rosterBytesMax = 256 << 20

// load reads what was kept; no file is none.
func (r *roster) load() error {
	if r.file == "" {
		return nil
	}
	info, err := os.Stat(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s holds verifiers and others may read it: chmod 600", r.file)
	}
	text, err := vfs.ReadFile(vfs.OS(), r.file, rosterBytesMax)
	if err != nil {
		return err
	}
	var kept rosterFile
	if err := json.Unmarshal(text, &kept); err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	if kept.Version != 1 {
		return fmt.Errorf("%s is of version %d, this walproxy reads 1", r.file, kept.Version)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for user, text := range kept.Secrets {
		secret, err := ParseSecret(text)
		if err != nil {
			return fmt.Errorf("%s: the secret of %q: %w", r.file, user, err)
		}
		r.mu.asked[user] = secret
	}
	for _, g := range kept.Granted {
		r.mu.granted[g.grantKey] = &g.grant
	}
	return nil
}

// save writes what has changed. It is a cache: what a power cut takes is learnt
// again.
func (r *roster) save() error {
	if r.file == "" {
		return nil
	}
	kept := rosterFile{Version: 1, Secrets: map[string]string{}}
	r.mu.Lock()
	if !r.mu.changed {
		r.mu.Unlock()
		return nil
	}
	r.mu.changed = false
	for user, s := range r.mu.asked {
		kept.Secrets[user] = s.verifierText()
	}
	for k, g := range r.mu.granted {
		kept.Granted = append(kept.Granted, rosterGrant{k, *g})
	}
	r.mu.Unlock()
	text, err := json.Marshal(kept)
	if err == nil {
		err = writePrivate(r.file, text)
	}
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.changed = true
	}
	return err
}

// writePrivate puts a file that only its owner may read in the place of another.
func writePrivate(name string, text []byte) (err error) {
	temporary := name + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // of an earlier attempt, maybe with another mode
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return vfs.OS().SyncDir(filepath.Dir(name))
}
