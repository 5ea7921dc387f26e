package security

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

// While too many passwords wait at one door, others are told to come again there, those
// that were proven are let in, and the other door does not notice.
func TestPasswordsWaitInABoundedQueueForEachDoor(t *testing.T) {
	a, _ := authenticator(t)
	other := a.Door()
	_, err := a.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	a.passwords.waiting.Store(waitingMax)
	_, err = a.CheckPassword(t.Context(), "alice", "wrong")
	require.Equal(t, federation.Throttled, federation.KindOf(err))
	require.EqualValues(t, waitingMax, a.passwords.waiting.Load())
	_, err = a.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	_, err = other.CheckPassword(t.Context(), "alice", "secret")
	require.NoError(t, err)
	_, err = other.CheckPassword(t.Context(), "alice", "wrong")
	require.ErrorIs(t, err, errCredentials)
}
