package federation

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIterationsAreThoseInUse(t *testing.T) {
	m := (&Map{}).Seal()
	require.EqualValues(t, ScramIterationsMin, m.IterationsAt(ScramSHA256, math.MaxUint64))
	m.Credentials = make(map[CredentialID]*Credential)
	for i := range 10 {
		id := CredentialID{User: fmt.Sprint("u", i), Mechanism: ScramSHA256}
		m.Credentials[id] = &Credential{CredentialID: id, Iterations: []int32{8192, 8192, 8192, 16384, 5000}[i%5]}
	}
	m.Seal()
	const n = 1000
	count := map[int32]int{}
	for i := range uint64(n) {
		count[m.IterationsAt(ScramSHA256, i*(math.MaxUint64/n))]++
	}
	for iterations, want := range map[int32]int{5000: 200, 8192: 600, 16384: 200} {
		require.InDelta(t, want, count[iterations], 1, "%d", iterations)
	}
	require.Len(t, count, 3)
	require.EqualValues(t, 16384, m.IterationsAt(ScramSHA256, math.MaxUint64))
	require.EqualValues(t, ScramIterationsMin, m.IterationsAt(ScramSHA512, 0), "of the other mechanism there is none")
}
