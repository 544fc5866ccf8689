package pgwire

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// Secret is what proves who a user is: what PostgreSQL keeps of a password
// (pg_authid.rolpassword), or the password itself.
type Secret struct {
	verifier scram.StoredCredentials
	password string // "": only the verifier is known
}

const (
	verifierPrefix = scramPlain + "$"
	// verifierRounds of a verifier that is made here: as PostgreSQL's default.
	verifierRounds = 4096
	// verifierRoundsMax: a client computes as many for a login.
	verifierRoundsMax = 10_000_000
)

var errMD5 = errors.New("it is an MD5 hash, of which SCRAM can make nothing: " +
	"set the password again with password_encryption = 'scram-sha-256'")

// ParseSecret reads a SCRAM verifier as PostgreSQL writes it, or takes text for a
// password.
func ParseSecret(text string) (Secret, error) {
	switch {
	case text == "":
		return Secret{}, errors.New("it is empty")
	case strings.HasPrefix(text, verifierPrefix):
		return parseVerifier(strings.TrimPrefix(text, verifierPrefix))
	case len(text) == 35 && strings.HasPrefix(text, "md5") && strings.Trim(text[3:], "0123456789abcdef") == "":
		return Secret{}, errMD5
	}
	return newSecret(text)
}

// parseVerifier reads <rounds>:<salt>$<stored key>:<server key>.
func parseVerifier(text string) (Secret, error) {
	factors, keys, ok1 := strings.Cut(text, "$")
	rounds, salt64, ok2 := strings.Cut(factors, ":")
	stored64, server64, ok3 := strings.Cut(keys, ":")
	n, err := strconv.Atoi(rounds)
	salt, err1 := base64.StdEncoding.DecodeString(salt64)
	stored, err2 := base64.StdEncoding.DecodeString(stored64)
	server, err3 := base64.StdEncoding.DecodeString(server64)
	if !ok1 || !ok2 || !ok3 || errors.Join(err, err1, err2, err3) != nil || n < 1 || n > verifierRoundsMax ||
		len(salt) == 0 || len(stored) != sha256.Size || len(server) != sha256.Size {
		return Secret{}, errors.New("it is no verifier as PostgreSQL writes it: " + verifierPrefix + "<iterations>:<salt>$<key>:<key>")
	}
	return Secret{verifier: scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(salt), Iters: n}, StoredKey: stored, ServerKey: server,
	}}, nil
}

// newSecret makes a verifier for a password.
func newSecret(password string) (Secret, error) {
	if len(password) > startupBytesMax {
		return Secret{}, errors.New("it is too long for a password")
	}
	client, err := scramClient(password)
	if err != nil {
		return Secret{}, err
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // it never fails
	verifier, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: verifierRounds})
	return Secret{password: password, verifier: verifier}, err
}

// scramClient of a password. As PostgreSQL does, one that SASLprep refuses is taken
// as it is.
func scramClient(password string) (*scram.Client, error) {
	client, err := scram.SHA256.NewClient("", password, "")
	if err != nil {
		client, err = scram.SHA256.NewClientUnprepped("", password, "")
	}
	if err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	return client.WithMinIterations(1), nil
}

// verifierText is the verifier, which is a secret, too: it lets nobody log in, but
// passwords can be tried against it.
func (s Secret) verifierText() string {
	v := s.verifier
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s%d:%s$%s:%s", verifierPrefix, v.Iters, b64([]byte(v.Salt)), b64(v.StoredKey), b64(v.ServerKey))
}

func (s Secret) known() bool { return len(s.verifier.StoredKey) > 0 }

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text)) // it never fails
	return h.Sum(nil)
}

// userlistBytesMax bounds a userlist.
const userlistBytesMax = 64 << 20

// ReadUserlist reads a file as pgbouncer's auth_file: "user" "secret" on each line,
// a quote within written twice. What stands behind both, empty lines and those
// that begin with ; are passed over.
func ReadUserlist(r io.Reader) (map[string]Secret, error) {
	list := map[string]Secret{}
	lines := bufio.NewScanner(io.LimitReader(r, userlistBytesMax))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == ';' {
			continue
		}
		user, rest, ok1 := cutQuoted(string(line))
		text, _, ok2 := cutQuoted(strings.TrimSpace(rest))
		if !ok1 || !ok2 || user == "" {
			return nil, fmt.Errorf(`line %d: want "user" "password or verifier"`, n)
		}
		secret, err := ParseSecret(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: the secret of %q: %w", n, user, err)
		}
		list[user] = secret
	}
	return list, lines.Err()
}

// cutQuoted cuts a quoted string off text.
func cutQuoted(text string) (value, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] != '"':
			b.WriteByte(text[i])
		case i+1 < len(text) && text[i+1] == '"':
			b.WriteByte('"')
			i++
		default:
			return b.String(), text[i+1:], true
		}
	}
	return "", "", false
}
