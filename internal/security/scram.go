package security

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/braidmq/braid/federation"
)

// saltBytes is the length of the salts that are made here.
const saltBytes = 20

func hashOf(m federation.ScramMechanism) (func() hash.Hash, error) {
	switch m {
	case federation.ScramSHA256:
		return sha256.New, nil
	case federation.ScramSHA512:
		return sha512.New, nil
	}
	return nil, federation.Errorf(federation.InvalidArgument, "mechanism %q is not known: want %s or %s", m, federation.ScramSHA256, federation.ScramSHA512)
}

// NewCredential makes the credential of a password, with a salt of its own.
func NewCredential(id federation.CredentialID, password string, iterations int) (*federation.Credential, error) {
	if password == "" {
		return nil, federation.Errorf(federation.InvalidArgument, "user %q: the password is empty", id.User)
	}
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // it never fails
	c := &federation.Credential{CredentialID: id, Salt: salt, Iterations: int32(iterations)}
	salted, err := saltedPassword(c, password)
	if err != nil {
		return nil, err
	}
	return CredentialOfSalted(id, salt, iterations, salted)
}

// CredentialOfSalted makes a credential of a salted password, which is what Kafka's
// tools send.
func CredentialOfSalted(id federation.CredentialID, salt []byte, iterations int, salted []byte) (*federation.Credential, error) {
	h, err := hashOf(id.Mechanism)
	if err != nil {
		return nil, err
	}
	if len(salted) != id.Mechanism.KeyBytes() {
		return nil, federation.Errorf(federation.InvalidArgument, "user %q: a salted password of %d bytes: %s has %d", id.User, len(salted), id.Mechanism, id.Mechanism.KeyBytes())
	}
	c := &federation.Credential{CredentialID: id, Salt: bytes.Clone(salt), Iterations: int32(iterations)}
	c.StoredKey, c.ServerKey = storedKey(h, salted), mac(h, salted, "Server Key")
	return c, c.Validate()
}

func storedKey(h func() hash.Hash, salted []byte) []byte {
	sum := h()
	_, _ = sum.Write(mac(h, salted, "Client Key"))
	return sum.Sum(nil)
}

func mac(h func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(h, key)
	_, _ = m.Write([]byte(text))
	return m.Sum(nil)
}

// saltedPassword is the costly step: as many hashes as the credential has iterations.
func saltedPassword(c *federation.Credential, password string) ([]byte, error) {
	h, err := hashOf(c.Mechanism)
	if err != nil {
		return nil, err
	}
	if c.Iterations < 1 || c.Iterations > federation.ScramIterationsMax {
		return nil, federation.Errorf(federation.InvalidArgument, "user %q: %d iterations of %s: want %d to %d",
			c.User, c.Iterations, c.Mechanism, federation.ScramIterationsMin, federation.ScramIterationsMax)
	}
	return pbkdf2.Key(h, password, c.Salt, int(c.Iterations), c.Mechanism.KeyBytes())
}

// A scram is one SCRAM exchange (RFC 5802) without channel binding, as Kafka has it.
//
//	client first ──► server first ──► client final ──► server final
type scram struct {
	a          *Authenticator
	mechanism  federation.ScramMechanism
	cred       *federation.Credential // set after the first message
	known      bool                   // cred is a user's, and none that stands for an unknown one
	bare       string                 // the client's first message without its header
	first      string                 // the server's first message
	nonce      string
	gs2        string
	serverRand string // for tests; empty = random
}

// Next implements Exchange.
func (s *scram) Next(_ context.Context, message []byte) ([]byte, *Identity, error) {
	if s.cred == nil {
		reply, err := s.clientFirst(message)
		return reply, nil, err
	}
	return s.clientFinal(message)
}

func (s *scram) clientFirst(message []byte) ([]byte, error) {
	m, err := parseClientFirst(string(message))
	if err != nil {
		return nil, err
	}
	if m.authzid != "" && m.authzid != m.user {
		return nil, errors.New("the authorization id differs from the user's name")
	}
	id := federation.CredentialID{User: m.user, Mechanism: s.mechanism}
	s.cred, s.known = s.a.users(id), true
	if s.cred == nil {
		// Who does not exist is refused at the end, as a wrong password is: names cannot be tried out.
		s.cred, s.known = s.a.decoy(id), false
	}
	if s.serverRand == "" {
		s.serverRand = rand.Text()
	}
	s.bare, s.gs2, s.nonce = m.bare, m.gs2, m.nonce+s.serverRand
	s.first = "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString(s.cred.Salt) + ",i=" + strconv.Itoa(int(s.cred.Iterations))
	return []byte(s.first), nil
}

func (s *scram) clientFinal(message []byte) ([]byte, *Identity, error) {
	m, err := parseClientFinal(string(message))
	if err != nil {
		return nil, nil, err
	}
	if m.binding != s.gs2 {
		return nil, nil, errors.New("the channel binding differs from that of the first message")
	}
	// librdkafka before 2.6.1 sends the client's part of the nonce twice, which brokers take;
	// the proof is over the message as it came.
	if !strings.HasSuffix(m.nonce, s.nonce) {
		return nil, nil, errors.New("the nonce differs from that of the server")
	}
	h, err := hashOf(s.mechanism)
	if err != nil {
		return nil, nil, err
	}
	text := s.bare + "," + s.first + "," + m.withoutProof
	signature := mac(h, s.cred.StoredKey, text)
	if len(m.proof) != len(signature) {
		return nil, nil, errCredentials
	}
	clientKey := make([]byte, len(signature))
	subtle.XORBytes(clientKey, signature, m.proof)
	sum := h()
	_, _ = sum.Write(clientKey)
	if subtle.ConstantTimeCompare(sum.Sum(nil), s.cred.StoredKey) != 1 || !s.known {
		return nil, nil, errCredentials
	}
	final := "v=" + base64.StdEncoding.EncodeToString(mac(h, s.cred.ServerKey, text))
	return []byte(final), &Identity{Principal: User(s.cred.User), Method: string(s.mechanism), credential: s.cred.CredentialID}, nil
}

type clientFirst struct {
	gs2, authzid, user, nonce, bare string
}

// parseClientFirst reads "n,[a=AUTHZID],n=USER,r=NONCE[,EXTENSIONS]".
func parseClientFirst(s string) (m clientFirst, err error) {
	flag, rest, ok := strings.Cut(s, ",")
	if !ok || flag != "n" && flag != "y" {
		return m, errors.New("the message does not begin as one without channel binding does")
	}
	authzid, bare, ok := strings.Cut(rest, ",")
	if !ok {
		return m, errors.New("the header is cut off")
	}
	m.gs2, m.bare = flag+","+authzid+",", bare
	if authzid != "" {
		name, ok := strings.CutPrefix(authzid, "a=")
		if !ok {
			return m, errors.New("the authorization id does not begin with a=")
		}
		if m.authzid, err = saslName(name); err != nil {
			return m, err
		}
	}
	fields := strings.Split(bare, ",")
	if len(fields) < 2 {
		return m, errors.New("the user's name or the nonce is missing")
	}
	name, ok := strings.CutPrefix(fields[0], "n=")
	if !ok {
		return m, errors.New("the user's name is missing, or an extension is mandatory")
	}
	if m.user, err = saslName(name); err != nil {
		return m, err
	}
	if m.nonce, err = nonce(fields[1]); err != nil {
		return m, err
	}
	for _, f := range fields[2:] {
		// Kafka's only one is tokenauth, of delegation tokens, which are not offered.
		if strings.HasPrefix(f, "tokenauth=true") {
			return m, errors.New("delegation tokens are not offered")
		}
	}
	return m, nil
}

// nonceMax is far above what clients send, some 30 characters: it comes back in answers to
// who is not known yet.
const nonceMax = 1024

func nonce(field string) (string, error) {
	n, ok := strings.CutPrefix(field, "r=")
	if !ok || n == "" {
		return "", errors.New("the nonce is missing")
	}
	if len(n) > nonceMax {
		return "", fmt.Errorf("the nonce has %d characters, at most %d are taken", len(n), nonceMax)
	}
	for _, c := range []byte(n) {
		if c < 0x21 || c > 0x7e {
			return "", errors.New("the nonce has a character that is not printable")
		}
	}
	return n, nil
}

// saslName undoes =2C and =3D. Names of users hold no other "=".
func saslName(s string) (string, error) {
	name := strings.ReplaceAll(strings.ReplaceAll(s, "=2C", ","), "=3D", "=")
	if strings.Count(s, "=") != strings.Count(s, "=2C")+strings.Count(s, "=3D") {
		return "", errors.New("the user's name has an = that is not escaped")
	}
	if err := federation.CheckUserName(name); err != nil {
		return "", err
	}
	return name, nil
}

type clientFinal struct {
	binding, nonce, withoutProof string
	proof                        []byte
}

// parseClientFinal reads "c=BINDING,r=NONCE[,EXTENSIONS],p=PROOF".
func parseClientFinal(s string) (m clientFinal, err error) {
	i := strings.LastIndex(s, ",p=")
	if i < 0 {
		return m, errors.New("the proof is missing")
	}
	m.withoutProof = s[:i]
	if m.proof, err = base64.StdEncoding.DecodeString(s[i+len(",p="):]); err != nil {
		return m, fmt.Errorf("the proof is no base64: %w", err)
	}
	fields := strings.Split(m.withoutProof, ",")
	if len(fields) < 2 {
		return m, errors.New("the channel binding or the nonce is missing")
	}
	binding, ok := strings.CutPrefix(fields[0], "c=")
	if !ok {
		return m, errors.New("the channel binding is missing")
	}
	b, err := base64.StdEncoding.DecodeString(binding)
	if err != nil {
		return m, fmt.Errorf("the channel binding is no base64: %w", err)
	}
	m.binding = string(b)
	m.nonce, err = nonce(fields[1])
	return m, err
}
