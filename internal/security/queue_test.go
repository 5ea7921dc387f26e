package security

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// busy takes all processors of a queue.
func (q *queue) busy() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free = 0
}

func (w *waiter) told() (err error, ok bool) { //nolint:revive // whether, and what
	select {
	case err = <-w.turn:
		return err, true
	default:
		return nil, false
	}
}

// While the passwords of one door wait, those that were proven are let in, others are told
// to come again when they have waited for so long, and the other door does not notice.
func TestPasswordsWaitInABoundedQueueForEachDoor(t *testing.T) {
	a, _ := authenticator(t)
	a.LimitPasswords(QueueConfig{WaitMax: time.Millisecond})
	other := a.Door()
	_, err := a.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	a.passwords.queue.busy()
	_, err = a.CheckPassword(t.Context(), "alice", "wrong")
	require.Equal(t, federation.Throttled, federation.KindOf(err))
	require.True(t, Undecided(err))
	require.Zero(t, a.passwords.queue.waiting)
	require.Empty(t, a.passwords.queue.sources)
	_, err = a.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	_, err = other.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	_, err = other.CheckPassword(t.Context(), "alice", "wrong")
	require.ErrorIs(t, err, errCredentials)
	require.False(t, Undecided(err))

	// Others who are known by the same door wait in the same line.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = a.Of(a.users).CheckPassword(gone, "alice", "wrong")
	require.ErrorIs(t, err, context.Canceled)
	a.passwords.queue.release()
	_, err = a.Of(a.users).CheckPassword(t.Context(), "alice", "wrong")
	require.ErrorIs(t, err, errCredentials)
}

func enter(t *testing.T, q *queue, from, user string) *waiter {
	t.Helper()
	w, err := q.enter(from, user)
	require.NoError(t, err)
	require.NotNil(t, w)
	return w
}

// Who does not wait any more leaves nothing behind, and nobody loses a turn by it.
func TestPasswordsThatAreGivenUp(t *testing.T) {
	q := newQueue(QueueConfig{})
	q.busy()
	stays := enter(t, q, "a", "alice")
	for range 1000 {
		for _, w := range []*waiter{enter(t, q, "a", "guessed"), enter(t, q, "b", "guessed")} {
			q.mu.Lock()
			q.removeLocked(w)
			q.mu.Unlock()
		}
	}
	require.Len(t, q.ring, 1)
	require.Len(t, stays.src.ring, 1)
	q.release()
	err, ok := stays.told()
	require.True(t, ok)
	require.NoError(t, err)
	require.Empty(t, q.ring)
	require.Empty(t, stays.src.ring)
	q.release()
	require.Equal(t, 1, q.free)
}

// Addresses take turns, and users at each of them: a flood of one holds up itself.
func TestPasswordsTakeTurns(t *testing.T) {
	q := newQueue(QueueConfig{})
	q.busy()
	var flood []*waiter
	for range 100 {
		flood = append(flood, enter(t, q, "a", "guessed"))
	}
	sameAddress := enter(t, q, "a", "bob")
	otherAddress := enter(t, q, "b", "guessed")
	for i, w := range []*waiter{flood[0], otherAddress, sameAddress, flood[1], flood[2]} {
		q.release()
		err, ok := w.told()
		require.True(t, ok, i)
		require.NoError(t, err)
	}
	require.Equal(t, 97, q.waiting)
	for range 97 {
		q.release()
	}
	require.Zero(t, q.free)
	require.Empty(t, q.sources)
	q.release()
	require.Equal(t, 1, q.free)
}

// Who comes when places have run out takes one of those who have most, and none of those
// who have as many.
func TestPasswordsOfFloodsMakeRoom(t *testing.T) {
	q := newQueue(QueueConfig{WaitingMax: 6, PerIPMax: 4})
	q.busy()
	var flood []*waiter
	for range 4 {
		flood = append(flood, enter(t, q, "a", "guessed"))
	}
	_, err := q.enter("a", "guessed")
	require.ErrorIs(t, err, errBusy)
	bob := enter(t, q, "a", "bob") // the address is full; its flood makes room
	err, ok := flood[3].told()
	require.True(t, ok)
	require.ErrorIs(t, err, errBusy)
	enter(t, q, "b", "x")
	enter(t, q, "c", "x")
	enter(t, q, "d", "x") // all is full
	err, ok = flood[2].told()
	require.True(t, ok)
	require.ErrorIs(t, err, errBusy)
	enter(t, q, "e", "x")
	_, ok = flood[1].told()
	require.True(t, ok)
	_, err = q.enter("f", "x") // the others have two at most: bob and one guess
	require.NoError(t, err)
	require.Equal(t, 6, q.waiting)
	_, err = q.enter("g", "x") // all have one
	require.ErrorIs(t, err, errBusy)
	_, bobTold := bob.told()
	_, guessTold := flood[0].told()
	require.NotEqual(t, bobTold, guessTold)
}

func TestSourceOfPasswords(t *testing.T) {
	for host, want := range map[string]string{"10.0.0.1": "10.0.0.1", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:2": "2001:db8::/64", "2001:db8:0:1::1": "2001:db8:0:1::/64", "": "", "pipe": "pipe"} {
		require.Equal(t, want, sourceOf(WithSource(t.Context(), host)))
	}
}

// While the keys of the issuer cannot be read, or were read just before a key was made, a
// token is neither right nor wrong.
func TestTokensAreUndecidedWithoutKeys(t *testing.T) {
	i := newIssuer(t)
	away := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		http.Redirect(w, r, i.url, http.StatusFound)
	}))
	t.Cleanup(s.Close)
	key := i.add("1", rsaKey(t))
	v := verifier(t, s.URL)
	clock := time.Now()
	v.now = func() time.Time { return clock }
	a := NewAuthenticator(Mechanisms(), newUsers(t).find, v)
	good := sign(t, jose.RS256, "1", key, claims(nil))
	for range 2 { // the second one does not ask again
		_, id, err := a.Start(OAuthBearer).Next(t.Context(), []byte("n,,\x01auth=Bearer "+good+"\x01\x01"))
		require.Nil(t, id)
		require.True(t, Undecided(err), err)
		require.Equal(t, federation.StoreUnavailable, federation.KindOf(err))
	}
	_, err := v.Verify(t.Context(), sign(t, jose.RS256, "1", key, claims(map[string]any{"iss": "https://else"})))
	require.Error(t, err)
	require.False(t, Undecided(err), "a stranger's token is wrong, whatever keys there are")

	away = false
	clock = clock.Add(keysRefreshSoon)
	_, err = v.Verify(t.Context(), good)
	require.NoError(t, err)
	fresh := i.add("2", rsaKey(t))
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "2", fresh, claims(nil)))
	require.Equal(t, federation.Throttled, federation.KindOf(err))
	clock = clock.Add(keysRefreshSoon)
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "3", fresh, claims(nil)))
	require.ErrorContains(t, err, "not among the issuer's")
	require.False(t, Undecided(err), "it was looked for")
	_, err = v.Verify(t.Context(), sign(t, jose.RS256, "2", fresh, claims(nil)))
	require.NoError(t, err)
}
