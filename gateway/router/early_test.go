package router

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A refusal counts for what comes after it. What waits since before may have been refused
// by another connection, whose client does not know of that.
func TestEarlyRefusalCountsForWhatComesLater(t *testing.T) {
	var r earlyRefusals
	k := refusedKey{partition: 1, id: 7}
	at := time.Unix(1000, 0)
	first, second := opSequence{id: 7, base: 5, last: 5}, opSequence{id: 7, base: 6, last: 6}
	require.False(t, r.was(k, first, time.Time{}))
	r.note(k, first, at)
	r.note(k, second, at.Add(time.Second))
	r.note(k, first, at.Add(time.Minute)) // it came again, and was refused once more
	require.True(t, r.was(k, first, time.Time{}), "it has come just now")
	require.True(t, r.was(k, first, at.Add(time.Millisecond)), "it waits since it was refused")
	require.False(t, r.was(k, first, at.Add(-time.Millisecond)), "it has waited already")
	require.False(t, r.was(k, second, time.Time{}), "another one comes before it")
	require.False(t, r.was(refusedKey{partition: 2, id: 7}, first, time.Time{}))
	r.forget(k)
	require.False(t, r.was(k, first, time.Time{}))
}
