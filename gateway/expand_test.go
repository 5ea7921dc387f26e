package gateway

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
)

// A message comes as it was, however large it is; of one that is too large nothing is handed
// out, so that no buffer grows for it.
func TestExpansionsAreBounded(t *testing.T) {
	const most = 1 << 20
	x := &expander{of: newExpansions(most, nil)}
	for _, size := range []int{0, 1, 1000, most/2 - 1, most / 2, most/2 + 1, most - 1, most, most + 1, 100 * most} {
		sent := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(sent)
		require.NoError(t, err)
		require.NoError(t, z.Close())
		for _, cut := range []int{0, 1} { // the last bytes are the sum
			require.NoError(t, x.Reset(bytes.NewReader(packed.Bytes()[:packed.Len()-cut])))
			got := bytes.NewBuffer(make([]byte, 0, 512))
			_, err = got.ReadFrom(x)
			switch {
			case size > most:
				require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err))
				require.Equal(t, 512, got.Cap())
			case cut > 0:
				require.Error(t, err, size)
			default:
				require.NoError(t, err, size)
				require.True(t, bytes.Equal(sent, got.Bytes()), size)
			}
			require.NoError(t, x.Reset(http.NoBody))
			require.Empty(t, x.slabs)
			require.Empty(t, x.of.slots)
		}
	}
}
