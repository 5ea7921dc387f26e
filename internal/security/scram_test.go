package security

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/sasl"
	kscram "github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/braidmq/braid/federation"
)

// users is a directory of credentials that can change.
type users struct {
	mu  sync.Mutex
	all map[federation.CredentialID]*federation.Credential
}

func (u *users) find(id federation.CredentialID) *federation.Credential {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.all[id]
}

func (u *users) remove(id federation.CredentialID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.all, id)
}

func (u *users) set(t testing.TB, user, password string, mechanisms ...federation.ScramMechanism) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range mechanisms {
		c, err := NewCredential(federation.CredentialID{User: user, Mechanism: m}, password, federation.ScramIterationsMin)
		require.NoError(t, err)
		u.all[c.CredentialID] = c
	}
}

func newUsers(t testing.TB) *users {
	t.Helper()
	u := &users{all: make(map[federation.CredentialID]*federation.Credential)}
	u.set(t, "alice", "secret", federation.ScramSHA256, federation.ScramSHA512)
	return u
}

func authenticator(t testing.TB) (*Authenticator, *users) {
	t.Helper()
	u := newUsers(t)
	return NewAuthenticator(Mechanisms(), u.find, nil), u
}

// The examples of RFC 7677, section 3: what others compute, too.
func TestScramVector(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	require.NoError(t, err)
	id := federation.CredentialID{User: "user", Mechanism: federation.ScramSHA256}
	salted, err := saltedPassword(&federation.Credential{CredentialID: id, Salt: salt, Iterations: 4096}, "pencil")
	require.NoError(t, err)
	cred, err := CredentialOfSalted(id, salt, 4096, salted)
	require.NoError(t, err)
	a := NewAuthenticator([]string{"SCRAM-SHA-256"}, func(federation.CredentialID) *federation.Credential { return cred }, nil)
	x := &scram{a: a, mechanism: federation.ScramSHA256, serverRand: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"}
	first, id1, err := x.Next(t.Context(), []byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
	require.NoError(t, err)
	require.Nil(t, id1)
	require.Equal(t, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", string(first))
	final, who, err := x.Next(t.Context(), []byte("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	require.NoError(t, err)
	require.Equal(t, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", string(final))
	require.Equal(t, User("user"), who.Principal)
}

// run plays a client's mechanism against a server's; it returns who was proven.
func run(t testing.TB, x Exchange, client sasl.Mechanism) (*Identity, error) {
	t.Helper()
	session, message, err := client.Authenticate(t.Context(), "localhost:9092")
	require.NoError(t, err)
	for range 5 {
		reply, id, err := x.Next(t.Context(), message)
		if err != nil {
			return nil, err
		}
		done, next, err := session.Challenge(reply)
		if id != nil {
			require.NoError(t, err)
			require.True(t, done)
			return id, nil
		}
		require.NoError(t, err)
		message = next
	}
	t.Fatal("the exchange does not end")
	return nil, nil
}

func TestScramWithAClient(t *testing.T) {
	a, u := authenticator(t)
	u.set(t, "a,b=c", "pass,word=", federation.ScramSHA256, federation.ScramSHA512)
	for name, as := range map[string]func(user, pass string) sasl.Mechanism{
		"SCRAM-SHA-256": func(user, pass string) sasl.Mechanism { return kscram.Auth{User: user, Pass: pass}.AsSha256Mechanism() },
		"SCRAM-SHA-512": func(user, pass string) sasl.Mechanism { return kscram.Auth{User: user, Pass: pass}.AsSha512Mechanism() },
	} {
		for _, user := range [][2]string{{"alice", "secret"}, {"a,b=c", "pass,word="}} {
			id, err := run(t, a.Start(name), as(user[0], user[1]))
			require.NoError(t, err)
			require.Equal(t, User(user[0]), id.Principal)
			require.Equal(t, name, id.Method)
		}
		_, wrong := run(t, a.Start(name), as("alice", "wrong"))
		require.Error(t, wrong)
		_, nobody := run(t, a.Start(name), as("bob", "secret"))
		require.Equal(t, wrong, nobody, "who does not exist is told from a wrong password")
	}
	require.Nil(t, a.Start("GSSAPI"))
}

// librdkafka before 2.6.1 sends the client's nonce twice; brokers take that.
func TestScramOfOldLibrdkafka(t *testing.T) {
	a, u := authenticator(t)
	cred := u.find(federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256})
	x := a.Start("SCRAM-SHA-256")
	first, _, err := x.Next(t.Context(), []byte("n,,n=alice,r=abc"))
	require.NoError(t, err)
	nonce, _, _ := strings.Cut(strings.TrimPrefix(string(first), "r="), ",")
	without := "c=biws,r=abc" + nonce
	salted, err := saltedPassword(cred, "secret")
	require.NoError(t, err)
	h, err := hashOf(cred.Mechanism)
	require.NoError(t, err)
	proof := mac(h, salted, "Client Key")
	subtle.XORBytes(proof, proof, mac(h, cred.StoredKey, "n=alice,r=abc,"+string(first)+","+without))
	_, id, err := x.Next(t.Context(), []byte(without+",p="+base64.StdEncoding.EncodeToString(proof)))
	require.NoError(t, err)
	require.Equal(t, User("alice"), id.Principal)
}

// What a client is shown of a user that does not exist does not change from try to try.
func TestScramDecoy(t *testing.T) {
	a, _ := authenticator(t)
	salt := func(user string) string {
		reply, _, err := a.Start("SCRAM-SHA-256").Next(t.Context(), []byte("n,,n="+user+",r=abc"))
		require.NoError(t, err)
		return strings.SplitN(string(reply), ",", 2)[1]
	}
	first := salt("bob")
	require.Equal(t, first, salt("bob"))
	require.NotEqual(t, first, salt("carol"))
}

func TestScramRefusesMessages(t *testing.T) {
	a, _ := authenticator(t)
	for _, first := range []string{
		"", "n", "n,", "n,,", "p=tls-unique,,n=alice,r=x", "n,,n=alice", "n,,r=x,n=alice", "n,,n=,r=x", "n,,n=alice,r=", "n,,n=al=ice,r=x",
		"n,a=bob,n=alice,r=x", "n,b=alice,n=alice,r=x", "n,,m=ext,n=alice,r=x", "n,,n=alice,r=x\x01", "n,,n=alice,r=x,tokenauth=true", "n,,n=a\nb,r=x",
	} {
		_, id, err := a.Start("SCRAM-SHA-256").Next(t.Context(), []byte(first))
		require.Error(t, err, "%q", first)
		require.Nil(t, id)
	}
	for _, final := range []string{"", "c=biws", "c=biws,r=x", "c=biws,p=AAAA", "c=biws,r=NONCE,p=!", "c=biws,r=other,p=AAAA", "c=bix,r=NONCE,p=AAAA", "c=eSws,r=NONCE,p=AAAA", "r=NONCE,c=biws,p=AAAA", "c=biws,r=NONCE,p=AAAA"} {
		x := a.Start("SCRAM-SHA-256")
		reply, _, err := x.Next(t.Context(), []byte("n,,n=alice,r=abc"))
		require.NoError(t, err)
		nonce, _, _ := strings.Cut(strings.TrimPrefix(string(reply), "r="), ",")
		_, id, err := x.Next(t.Context(), []byte(strings.ReplaceAll(final, "NONCE", nonce)))
		require.Error(t, err, "%q", final)
		require.Nil(t, id)
	}
}

func TestPlain(t *testing.T) {
	a, u := authenticator(t)
	u.set(t, "only512", "pw", federation.ScramSHA512)
	for _, ok := range []string{"\x00alice\x00secret", "alice\x00alice\x00secret", "\x00only512\x00pw"} {
		_, id, err := a.Start(Plain).Next(t.Context(), []byte(ok))
		require.NoError(t, err)
		require.NotNil(t, id)
		require.True(t, a.Holds(*id, now()))
	}
	for _, bad := range []string{"", "alice\x00secret", "bob\x00alice\x00secret", "\x00alice\x00wrong", "\x00\x00secret", "\x00alice\x00", "\x00bob\x00secret", "\x00alice\x00secret\x00", "\x00alice\x00" + strings.Repeat("x", 2000)} {
		_, id, err := a.Start(Plain).Next(t.Context(), []byte(bad))
		require.Error(t, err, "%q", bad)
		require.Nil(t, id)
	}
}

// A password is derived once, and no more once the credential has changed.
func TestProvenPasswords(t *testing.T) {
	a, u := authenticator(t)
	check := func(password string) error {
		_, err := a.CheckPassword(t.Context(), "alice", password)
		return err
	}
	require.NoError(t, check("secret"))
	require.Len(t, a.passwords.proven, 1)
	// With all processors taken nothing can be derived: it is known without.
	a.passwords.queue.busy()
	require.NoError(t, check("secret"))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.CheckPassword(gone, "alice", "wrong")
	require.ErrorIs(t, err, context.Canceled)
	a.passwords.queue.release()
	u.set(t, "alice", "changed", federation.ScramSHA256, federation.ScramSHA512)
	require.Error(t, check("secret"))
	require.NoError(t, check("changed"))
}

func TestProvenPasswordsAreBounded(t *testing.T) {
	a, u := authenticator(t)
	for i := range provenMax {
		a.passwords.proven[[32]byte{byte(i), byte(i >> 8)}] = struct{}{}
	}
	c := u.find(federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256})
	ok, err := a.passwords.derive(c, "secret")
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, a.passwords.proven, provenMax)
	require.Contains(t, a.passwords.proven, a.passwords.mark(c, "secret"))
}

func TestHolds(t *testing.T) {
	a, u := authenticator(t)
	id, err := a.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	u.set(t, "alice", "changed", federation.ScramSHA256)
	require.True(t, a.Holds(*id, now()), "a password is changed under way")
	u.remove(federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256})
	require.False(t, a.Holds(*id, now()))
}

func TestSecretToken(t *testing.T) {
	a, _ := authenticator(t)
	id, err := a.CheckToken(t.Context(), SecretToken("alice", "secret"))
	require.NoError(t, err)
	require.Equal(t, User("alice"), id.Principal)
	for _, bad := range []string{"", "braid.", "braid.!.!", SecretToken("alice", "wrong"), SecretToken("bob", "secret"), "eyJhbGciOiJub25lIn0.e30."} {
		_, err := a.CheckToken(t.Context(), bad)
		require.Error(t, err, bad)
	}
}

func TestCredentialHidesItsKeys(t *testing.T) {
	_, u := authenticator(t)
	c := u.find(federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256})
	for _, text := range []string{c.String(), c.GoString()} {
		require.Equal(t, `SCRAM-SHA-256 of user "alice" (4096 iterations)`, text)
	}
}

func TestNewCredentialBounds(t *testing.T) {
	id := federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256}
	for _, iterations := range []int{0, 4095, 16385} {
		_, err := NewCredential(id, "secret", iterations)
		require.ErrorContains(t, err, "4096 to 16384")
	}
	_, err := NewCredential(id, "", 4096)
	require.ErrorContains(t, err, "empty")
	_, err = NewCredential(federation.CredentialID{User: "alice", Mechanism: "MD5"}, "secret", 4096)
	require.ErrorContains(t, err, "MD5")
}

// Who does not exist is shown a salt and iterations like those of somebody who does, the
// same ones each time, at each process of a fleet.
func TestUnknownUsersLookLikeKnownOnes(t *testing.T) {
	u := newUsers(t)
	like := func(_ federation.ScramMechanism, at uint64) int32 { return []int32{8192, 16384}[at>>63] }
	var doors []*Authenticator
	for range 2 {
		a := NewAuthenticator(Mechanisms(), u.find, nil)
		a.HideUnknown(like)
		door := a.Door()
		a.ShareSecret([]byte("a secret of the fleet"))
		doors = append(doors, a, door)
	}
	shown := func(a *Authenticator, user string) string {
		first, _, err := a.Start("SCRAM-SHA-256").Next(t.Context(), []byte("n,,n="+user+",r=abc"))
		require.NoError(t, err)
		_, rest, ok := strings.Cut(string(first), ",")
		require.True(t, ok)
		return rest
	}
	seen := map[string]int{}
	for i := range 40 {
		user := "nobody" + strconv.Itoa(i)
		want := shown(doors[0], user)
		for _, a := range doors {
			require.Equal(t, want, shown(a, user))
		}
		_, iterations, _ := strings.Cut(want, ",i=")
		seen[iterations]++
		require.Len(t, want, len(shown(doors[0], "alice"))+len(iterations)-len("4096"))
	}
	require.Len(t, seen, 2)
	require.Contains(t, seen, "8192")
}

// FuzzMessages feeds bytes to each mechanism, as first message and as second one.
func FuzzMessages(f *testing.F) {
	a, _ := authenticator(f)
	for _, seed := range []string{"n,,n=alice,r=abc", "c=biws,r=abc,p=AAAA", "\x00alice\x00secret", "n,,\x01auth=Bearer x\x01\x01", "n,a=alice,\x01auth=Bearer a.b.c\x01k=v\x01\x01"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range Mechanisms() {
			x := a.Start(m)
			if _, _, err := x.Next(t.Context(), b); err == nil {
				_, _, _ = x.Next(t.Context(), b)
			}
			if s, ok := a.Start(m).(*scram); ok {
				_, _, err := s.Next(t.Context(), []byte("n,,n=alice,r=abc"))
				require.NoError(t, err)
				_, id, _ := s.Next(t.Context(), b)
				require.Nil(t, id, "proven without the password")
			}
		}
		if m, err := parseClientFirst(string(b)); err == nil {
			require.Equal(t, string(b), m.gs2+m.bare)
			require.NoError(t, federation.CheckUserName(m.user))
		}
		if user, password, ok := parseSecretToken(string(b)); ok {
			u, p, ok := parseSecretToken(SecretToken(user, password))
			require.True(t, ok)
			require.Equal(t, []string{user, password}, []string{u, p})
		}
	})
}
