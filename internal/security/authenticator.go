package security

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
)

// The SASL mechanisms.
const (
	Plain       = "PLAIN"
	OAuthBearer = "OAUTHBEARER"
)

// Mechanisms are the SASL mechanisms that can be offered, in the order in which
// clients are told.
func Mechanisms() []string {
	return []string{string(federation.ScramSHA256), string(federation.ScramSHA512), Plain, OAuthBearer}
}

// CheckMechanisms refuses names of mechanisms that cannot be offered.
func CheckMechanisms(names []string) error {
	for _, n := range names {
		if !slices.Contains(Mechanisms(), n) {
			return fmt.Errorf("SASL mechanism %q: want some of %s", n, strings.Join(Mechanisms(), ", "))
		}
	}
	return nil
}

// errCredentials is all that a client learns: not whether the user exists.
var errCredentials = errors.New("invalid credentials")

// An Identity is who a client has proven to be, and for how long that holds.
type Identity struct {
	Principal Principal
	Method    string    // a SASL mechanism, or SSL for a certificate
	Expires   time.Time // zero = it does not by itself

	credential federation.CredentialID // what was proven; zero = no credential of the map
}

// An Exchange is one authentication by a SASL mechanism, message by message. It is
// for one goroutine.
type Exchange interface {
	// Next takes a client's message. The reply goes back to the client also at the end,
	// which is when there is an Identity. An error ends the exchange; it is for the log,
	// as its text can say what was wrong.
	Next(ctx context.Context, message []byte) (reply []byte, id *Identity, err error)
}

// An Authenticator checks what clients prove. It is safe for concurrent use.
type Authenticator struct {
	mechanisms []string
	users      func(federation.CredentialID) *federation.Credential
	tokens     *TokenVerifier // nil = tokens of no issuer are taken
	passwords  *passwords
	queue      QueueConfig
	secret     *atomic.Pointer[[]byte] // for decoys; of all doors
	iterations Iterations              // for decoys; may be nil
}

// Iterations returns the iterations of one of the credentials of a mechanism: of each as
// often as of any other over all values of at.
type Iterations func(m federation.ScramMechanism, at uint64) int32

// NewAuthenticator makes an Authenticator that offers some SASL mechanisms. users
// finds credentials in the newest map; tokens may be nil.
func NewAuthenticator(mechanisms []string, users func(federation.CredentialID) *federation.Credential, tokens *TokenVerifier) *Authenticator {
	a := &Authenticator{users: users, tokens: tokens, passwords: newPasswords(QueueConfig{}), secret: new(atomic.Pointer[[]byte])}
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // it never fails
	a.secret.Store(&secret)
	for _, m := range Mechanisms() {
		if slices.Contains(mechanisms, m) {
			a.mechanisms = append(a.mechanisms, m)
		}
	}
	return a
}

// Door returns an Authenticator of the same users for another door, with a queue of its
// own: guesses at one do not hold up logins at the other.
func (a *Authenticator) Door() *Authenticator {
	other := *a
	other.passwords = newPasswords(a.queue)
	return &other
}

// Of returns an Authenticator of other users at the same door, with the same queue.
func (a *Authenticator) Of(users func(federation.CredentialID) *federation.Credential) *Authenticator {
	other := *a
	other.users = users
	return &other
}

// LimitPasswords bounds the passwords that wait. It is to be called before the
// Authenticator is used.
func (a *Authenticator) LimitPasswords(cfg QueueConfig) {
	a.queue, a.passwords = cfg, newPasswords(cfg)
}

// HideUnknown has users that do not exist look like those that do, in their iterations. It
// is to be called before the Authenticator is used.
func (a *Authenticator) HideUnknown(like Iterations) { a.iterations = like }

// ShareSecret takes a secret of the fleet: until then, a user that does not exist has
// another salt at each process, which a client that asks two could see.
func (a *Authenticator) ShareSecret(secret []byte) {
	secret = bytes.Clone(secret)
	a.secret.Store(&secret)
}

// Mechanisms are the mechanisms that are offered.
func (a *Authenticator) Mechanisms() []string { return a.mechanisms }

// Start begins an authentication; nil if the mechanism is not offered.
func (a *Authenticator) Start(mechanism string) Exchange {
	if !slices.Contains(a.mechanisms, mechanism) {
		return nil
	}
	switch mechanism {
	case Plain:
		return &plain{a}
	case OAuthBearer:
		return &oauthBearer{a: a}
	default:
		return &scram{a: a, mechanism: federation.ScramMechanism(mechanism)}
	}
}

// Holds reports whether what an identity was proven with is still there. A credential
// that was replaced holds for those who are in: a password can be changed under way.
func (a *Authenticator) Holds(id Identity, now time.Time) bool {
	if !id.Expires.IsZero() && !now.Before(id.Expires) {
		return false
	}
	return id.credential == (federation.CredentialID{}) || a.users(id.credential) != nil
}

// decoy is what a client is shown of a user that does not exist: always the same, with a
// salt as credentials that are made here have one, and as many iterations as one of them.
func (a *Authenticator) decoy(id federation.CredentialID) *federation.Credential {
	m := hmac.New(sha256.New, *a.secret.Load())
	_, _ = m.Write([]byte("decoy\x00" + string(id.Mechanism) + "\x00" + id.User))
	sum := m.Sum(nil)
	iterations := int32(federation.ScramIterationsMin)
	if a.iterations != nil {
		iterations = max(iterations, a.iterations(id.Mechanism, binary.BigEndian.Uint64(sum[saltBytes:])))
	}
	return &federation.Credential{
		CredentialID: id, Salt: sum[:saltBytes], Iterations: iterations,
		StoredKey: make([]byte, id.Mechanism.KeyBytes()), ServerKey: make([]byte, id.Mechanism.KeyBytes()),
	}
}
