package federation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A ScramMechanism is how a password is proven, as SASL names it.
type ScramMechanism string

// The mechanisms of credentials.
const (
	ScramSHA256 ScramMechanism = "SCRAM-SHA-256"
	ScramSHA512 ScramMechanism = "SCRAM-SHA-512"
)

// KeyBytes is the length of the keys of a mechanism; 0 if it is not known.
func (m ScramMechanism) KeyBytes() int {
	switch m {
	case ScramSHA256:
		return 32
	case ScramSHA512:
		return 64
	}
	return 0
}

// Bounds of credentials. The iterations are Kafka's own: clients refuse fewer, and
// more would let a client that only knows a name keep others busy.
const (
	UserNameBytesMax   = 256
	ScramSaltBytesMax  = 256
	ScramIterationsMin = 4096
	ScramIterationsMax = 16384
)

// A CredentialID names a credential: a user can have one of each mechanism.
type CredentialID struct {
	User      string
	Mechanism ScramMechanism
}

// A Credential is what a gateway checks a password with (RFC 5802). It holds neither
// the password nor what could be sent in its place, but guesses can be tried on it, so
// it shows itself nowhere.
type Credential struct {
	CredentialID
	Salt       []byte
	Iterations int32
	StoredKey  []byte
	ServerKey  []byte
	CreatedMs  int64
}

// String keeps the keys out of logs.
func (c *Credential) String() string {
	return fmt.Sprintf("%s of user %q (%d iterations)", c.Mechanism, c.User, c.Iterations)
}

// GoString keeps the keys out of what %#v prints.
func (c *Credential) GoString() string { return c.String() }

// CheckUserName refuses names that no user can have.
func CheckUserName(user string) error {
	switch {
	case user == "":
		return Errorf(InvalidArgument, "the name of a user is empty")
	case len(user) > UserNameBytesMax:
		return Errorf(InvalidArgument, "the name of a user has %d bytes: want at most %d", len(user), UserNameBytesMax)
	case user == "ANONYMOUS" || user == "braid-fleet":
		return Errorf(InvalidArgument, "user name %q is braid's own: it stands for who is not known, and for braid's processes", user)
	case !utf8.ValidString(user), strings.ContainsFunc(user, unicode.IsControl):
		return Errorf(InvalidArgument, "user name %q: want UTF-8 without control characters", user)
	}
	return nil
}

// Validate checks the rules of a credential. Its errors are of kind InvalidArgument.
func (c *Credential) Validate() error {
	if err := CheckUserName(c.User); err != nil {
		return err
	}
	n := c.Mechanism.KeyBytes()
	switch {
	case n == 0:
		return Errorf(InvalidArgument, "user %q: mechanism %q: want %s or %s", c.User, c.Mechanism, ScramSHA256, ScramSHA512)
	case c.Iterations < ScramIterationsMin || c.Iterations > ScramIterationsMax:
		return Errorf(InvalidArgument, "user %q: %d iterations of %s: want %d to %d", c.User, c.Iterations, c.Mechanism, ScramIterationsMin, ScramIterationsMax)
	case len(c.Salt) == 0 || len(c.Salt) > ScramSaltBytesMax:
		return Errorf(InvalidArgument, "user %q: a salt of %d bytes: want 1 to %d", c.User, len(c.Salt), ScramSaltBytesMax)
	case len(c.StoredKey) != n || len(c.ServerKey) != n:
		return Errorf(InvalidArgument, "user %q: keys of %d and %d bytes: %s has %d", c.User, len(c.StoredKey), len(c.ServerKey), c.Mechanism, n)
	}
	return nil
}

// Equal compares two credentials.
func (c *Credential) Equal(o *Credential) bool {
	return c.CredentialID == o.CredentialID && c.Iterations == o.Iterations && c.CreatedMs == o.CreatedMs &&
		slices.Equal(c.Salt, o.Salt) && slices.Equal(c.StoredKey, o.StoredKey) && slices.Equal(c.ServerKey, o.ServerKey)
}

// Credential returns a credential; nil if there is none.
func (m *Map) Credential(id CredentialID) *Credential { return m.Credentials[id] }

// An iterationCount says how many credentials of a mechanism have some iterations.
type iterationCount struct {
	iterations int32
	users      int
}

func iterationsOf(all map[CredentialID]*Credential) map[ScramMechanism][]iterationCount {
	if len(all) == 0 {
		return nil
	}
	out := make(map[ScramMechanism][]iterationCount)
	for id, c := range all {
		counts := out[id.Mechanism]
		i := slices.IndexFunc(counts, func(n iterationCount) bool { return n.iterations == c.Iterations })
		if i < 0 {
			out[id.Mechanism] = append(counts, iterationCount{c.Iterations, 1})
			continue
		}
		counts[i].users++
	}
	for _, counts := range out {
		slices.SortFunc(counts, func(a, b iterationCount) int { return cmp.Compare(a.iterations, b.iterations) })
	}
	return out
}

// IterationsAt returns the iterations of a credential of a mechanism: over all values of
// at, each number as often as credentials have it. A new credential changes few answers.
func (m *Map) IterationsAt(mechanism ScramMechanism, at uint64) int32 {
	counts, total := m.iterations[mechanism], 0
	if len(counts) == 0 {
		return ScramIterationsMin
	}
	for _, n := range counts {
		total += n.users
	}
	seen, last := 0, len(counts)-1
	for _, n := range counts[:last] {
		if seen += n.users; float64(at)/(1<<64)*float64(total) < float64(seen) {
			return n.iterations
		}
	}
	return counts[last].iterations
}
