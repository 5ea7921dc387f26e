package kafkacompat

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
	"github.com/braidmq/braid/internal/layout/layouttest"
)

// TestLayoutsFitTheCodec walks random requests of each version, whole and cut off.
func TestLayoutsFitTheCodec(t *testing.T) {
	for _, a := range served() {
		if a.hot && a.key != kmsg.Fetch {
			continue
		}
		require.NotNil(t, layouts[int16(a.key)], a.name)
		for v := a.min; v <= a.max; v++ {
			for seed := range uint64(40) {
				req := kmsg.RequestForKey(int16(a.key))
				layouttest.Fill(rand.New(rand.NewPCG(seed, uint64(v))), reflect.ValueOf(req).Elem(), false)
				req.SetVersion(v)
				b := req.AppendTo(nil)
				what := fmt.Sprintf("%s v%d seed %d: %s", a.name, v, seed, hex.EncodeToString(b))
				require.NoError(t, checked(a, v, b), what)
				rest, err := layout.Walk(layouts[int16(a.key)], b, v, v >= a.flexible)
				require.NoError(t, err, what)
				require.Empty(t, rest, "bytes left over: "+what)
				for n := range b {
					require.Error(t, checked(a, v, b[:n]), "cut at %d: %s", n, what)
				}
			}
		}
	}
}

// checked is what the gateway finds of a request's body before it is decoded.
func checked(a *api, version int16, body []byte) error {
	_, _, err := layout.WalkText(layouts[int16(a.key)], body, version, version >= a.flexible)
	return err
}

// TestCountsThatAreNotThere: neither memory nor time for what a request only says it has.
func TestCountsThatAreNotThere(t *testing.T) {
	a := served()[int16(kmsg.Metadata)]
	tags := append([]byte{1, 0, 0, 0}, 0xff, 0xff, 0xff, 0xff, 0x0f) // no topics, three flags, 2^32-1 tagged fields
	topics := append(appendUvarint(nil, layout.ElementsMax+2), make([]byte, 15<<20)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.ErrorIs(t, checked(a, 9, tags), layout.ErrElementsMax)
	require.ErrorIs(t, checked(a, 9, topics), layout.ErrElementsMax)
	require.ErrorIs(t, checked(a, 9, topics[:1000]), layout.ErrCutOff)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}
