package pgwire

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// scramPlain is SCRAM that is bound to nothing.
const scramPlain = "SCRAM-SHA-256"

// credentials are what the endpoint can show PostgreSQL in a client's name.
//
// A SCRAM proof cannot be shown twice, but who knows the verifier finds the client
// key in it (RFC 5802, section 3): stored key = H(client key), and the proof is
// client key XOR HMAC(stored key, what was said). With that key anybody can log in
// as this user where the verifier is the same, which is what pgbouncer does, too.
// So it never leaves the session's memory.
type credentials struct {
	user      string
	password  string // "": unknown
	clientKey []byte // nil: unknown
	secret    Secret // that the client key belongs to
}

// overheard is a SCRAM exchange as it passed.
type overheard struct {
	clientFirst, serverFirst, clientFinal string
}

var errProof = errors.New("the exchange does not prove what the verifier wants")

// clientKey finds the client key in an exchange that succeeded.
func (o *overheard) clientKey(secret Secret) ([]byte, error) {
	// n,,n=user,r=nonce: what stands before the second comma is not signed.
	bare := o.clientFirst
	for range 2 {
		_, rest, ok := strings.Cut(bare, ",")
		if !ok {
			return nil, errProof
		}
		bare = rest
	}
	at := strings.LastIndex(o.clientFinal, ",p=")
	if at < 0 || !secret.known() {
		return nil, errProof
	}
	proof, err := base64.StdEncoding.DecodeString(o.clientFinal[at+3:])
	if err != nil || len(proof) != sha256.Size {
		return nil, errProof
	}
	signature := mac(secret.verifier.StoredKey, bare+","+o.serverFirst+","+o.clientFinal[:at])
	key := xor(proof, signature)
	if stored := sha256.Sum256(key); !hmac.Equal(stored[:], secret.verifier.StoredKey) {
		return nil, errProof
	}
	return key, nil
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] ^ b[i]
	}
	return out
}

// prover is the client's side of SCRAM for who has the client key and not the
// password, which is why it is here: libraries start from the password.
type prover struct {
	with   credentials
	nonce  string
	bare   string // of the first message
	signed string // what both sides have said
}

func (p *prover) first() string {
	raw := make([]byte, 18)
	_, _ = rand.Read(raw) // it never fails
	p.nonce = base64.StdEncoding.EncodeToString(raw)
	p.bare = "n=,r=" + p.nonce // PostgreSQL has the name from the startup packet
	return "n,," + p.bare
}

// final answers the server's challenge.
func (p *prover) final(challenge string) (string, error) {
	parts := strings.Split(challenge, ",")
	if len(parts) < 3 || !strings.HasPrefix(parts[0], "r="+p.nonce) || len(parts[0]) == len("r="+p.nonce) {
		return "", errors.New("its challenge is not one of SCRAM")
	}
	salt, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(parts[1], "s="))
	if err != nil {
		return "", errors.New("its challenge has no salt")
	}
	rounds, err := strconv.Atoi(strings.TrimPrefix(parts[2], "i="))
	if err != nil {
		return "", errors.New("its challenge has no iterations")
	}
	v := p.with.secret.verifier
	if string(salt) != v.Salt || rounds != v.Iters {
		return "", errors.New("the password was set again since the client logged in")
	}
	without := "c=biws," + parts[0]
	p.signed = p.bare + "," + challenge + "," + without
	proof := xor(p.with.clientKey, mac(v.StoredKey, p.signed))
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

// check: the server knows the verifier, too.
func (p *prover) check(final string) error {
	signature, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(final, "v="))
	if err != nil || !hmac.Equal(signature, mac(p.with.secret.verifier.ServerKey, p.signed)) {
		return errors.New("it does not prove that it knows the verifier")
	}
	return nil
}

// initialResponse reads a SASLInitialResponse: the mechanism, and what it says.
func initialResponse(body []byte) (mechanism, message string, err error) {
	name, rest, ok := bytes.Cut(body, []byte{0})
	if !ok || len(rest) < 4 {
		return "", "", errors.New("SASL: an initial response is too short")
	}
	n := int64(int32(binary.BigEndian.Uint32(rest)))
	if n != int64(len(rest)-4) {
		return "", "", fmt.Errorf("SASL: an initial response of %d bytes says it has %d", len(rest)-4, n)
	}
	return string(name), string(rest[4:]), nil
}
