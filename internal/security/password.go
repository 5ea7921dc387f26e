package security

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"
	"sync"

	"github.com/braidmq/braid/federation"
)

const (
	// provenMax bounds the passwords that are remembered as proven, of 32 B each.
	provenMax = 10_000
	// passwordBytesMax bounds a password: a longer one is refused before it costs anything.
	passwordBytesMax = 1024
)

// passwords remembers which passwords were proven, so that a client that sends its
// password with each call costs the iterations once, and waits for nobody who guesses. It
// holds no password, only a MAC of it under a key of this process, together with the
// credential: a credential that changes is not the same any more.
type passwords struct {
	key   []byte
	queue *queue

	mu     sync.Mutex // guards the following
	proven map[[sha256.Size]byte]struct{}
}

func newPasswords(cfg QueueConfig) *passwords {
	p := &passwords{key: make([]byte, sha256.Size), queue: newQueue(cfg), proven: make(map[[sha256.Size]byte]struct{})}
	_, _ = rand.Read(p.key) // it never fails
	return p
}

func (p *passwords) mark(c *federation.Credential, password string) (out [sha256.Size]byte) {
	m := hmac.New(sha256.New, p.key)
	for _, part := range [][]byte{c.StoredKey, c.Salt, []byte(password)} {
		sum := sha256.Sum256(part) // of one length each, so parts cannot run into each other
		_, _ = m.Write(sum[:])
	}
	m.Sum(out[:0])
	return out
}

// isProven reports whether a password was proven to be that of a credential.
func (p *passwords) isProven(c *federation.Credential, password string) bool {
	mark := p.mark(c, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.proven[mark]
	return ok
}

// derive reports whether a password is that of a credential, by as many hashes as it takes.
func (p *passwords) derive(c *federation.Credential, password string) (bool, error) {
	h, err := hashOf(c.Mechanism)
	if err != nil {
		return false, err
	}
	salted, err := saltedPassword(c, password)
	if err != nil || subtle.ConstantTimeCompare(storedKey(h, salted), c.StoredKey) != 1 {
		return false, err
	}
	mark := p.mark(c, password)
	p.mu.Lock()
	defer p.mu.Unlock()
	for old := range p.proven { // any: it is proven again when it comes
		if len(p.proven) < provenMax {
			break
		}
		delete(p.proven, old)
	}
	p.proven[mark] = struct{}{}
	return true, nil
}

// CheckPassword checks the password of a user against any of its credentials. One that
// was not proven before waits for its turn; see Undecided for an error that says nothing
// about the password.
func (a *Authenticator) CheckPassword(ctx context.Context, user, password string) (*Identity, error) {
	if federation.CheckUserName(user) != nil || password == "" || len(password) > passwordBytesMax {
		return nil, errCredentials
	}
	mechanisms := []federation.ScramMechanism{federation.ScramSHA256, federation.ScramSHA512}
	for _, m := range mechanisms {
		if c := a.users(federation.CredentialID{User: user, Mechanism: m}); c != nil && a.passwords.isProven(c, password) {
			return &Identity{Principal: User(user), Method: Plain, credential: c.CredentialID}, nil
		}
	}
	if err := a.passwords.queue.acquire(ctx, user); err != nil {
		return nil, err
	}
	defer a.passwords.queue.release()
	// All are tried, and those that are not there are tried with nothing behind them: how
	// long it takes does not tell who exists.
	for _, m := range mechanisms {
		id := federation.CredentialID{User: user, Mechanism: m}
		c := a.users(id)
		known := c != nil
		if !known {
			c = a.decoy(id)
		}
		ok, err := a.passwords.derive(c, password)
		if err != nil {
			return nil, err
		}
		if ok && known {
			return &Identity{Principal: User(user), Method: Plain, credential: c.CredentialID}, nil
		}
	}
	return nil, errCredentials
}

// plain is the mechanism PLAIN (RFC 4616), checked against SCRAM credentials.
type plain struct{ a *Authenticator }

// Next implements Exchange.
func (p *plain) Next(ctx context.Context, message []byte) ([]byte, *Identity, error) {
	user, password, err := parsePlain(message)
	if err != nil {
		return nil, nil, err
	}
	id, err := p.a.CheckPassword(ctx, user, password)
	return nil, id, err
}

// parsePlain reads [AUTHZID] NUL USER NUL PASSWORD.
func parsePlain(message []byte) (user, password string, err error) {
	parts := bytes.Split(message, []byte{0})
	if len(parts) != 3 {
		return "", "", errors.New("the message does not have three parts")
	}
	authzid, user, password := string(parts[0]), string(parts[1]), string(parts[2])
	switch {
	case authzid != "" && authzid != user:
		return "", "", errors.New("the authorization id differs from the user's name")
	case user == "", password == "":
		return "", "", errors.New("the user's name or the password is empty")
	}
	return user, password, nil
}

// secretPrefix begins the tokens of credentials, so that they are told from those of
// issuers, and found by whoever looks for leaked ones.
const secretPrefix = "braid."

// SecretToken is a user's password as a bearer token.
func SecretToken(user, password string) string {
	return secretPrefix + base64.RawURLEncoding.EncodeToString([]byte(user)) + "." + base64.RawURLEncoding.EncodeToString([]byte(password))
}

// parseSecretToken is the reverse of SecretToken; ok is false for any other token.
func parseSecretToken(token string) (user, password string, ok bool) {
	rest, ok := strings.CutPrefix(token, secretPrefix)
	if !ok {
		return "", "", false
	}
	u, p, _ := strings.Cut(rest, ".")
	ub, uerr := base64.RawURLEncoding.DecodeString(u)
	pb, perr := base64.RawURLEncoding.DecodeString(p)
	return string(ub), string(pb), uerr == nil && perr == nil
}

// CheckToken checks a bearer token: a credential's own, or one of the issuer.
func (a *Authenticator) CheckToken(ctx context.Context, token string) (*Identity, error) {
	if user, password, ok := parseSecretToken(token); ok {
		return a.CheckPassword(ctx, user, password)
	}
	if a.tokens == nil {
		return nil, errors.New("no issuer of tokens is configured")
	}
	return a.tokens.Verify(ctx, token)
}

// NewSecret makes a password that cannot be guessed.
func NewSecret() string { return rand.Text() + rand.Text() }
