package kafkacompat_test

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FuzzRequests sends what follows a request's length field to a server. Whatever
// it is, the server answers or closes the connection, and lives on.
func FuzzRequests(f *testing.F) {
	for key := int16(0); key <= kmsg.MaxKey; key++ {
		req := kmsg.RequestForKey(key)
		if req == nil {
			continue
		}
		for v := int16(0); v <= req.MaxVersion(); v++ {
			req.SetVersion(v)
			f.Add(kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz")).AppendRequest(nil, req, 7)[4:])
		}
	}
	for _, group := range []string{"caf\xe9", strings.Repeat("\xe9", 1<<15-1), strings.Repeat("g", 1<<15)} {
		for v := range int16(10) {
			req := joinNew(group)
			req.SetVersion(v)
			f.Add(kmsg.NewRequestFormatter(kmsg.FormatterClientID(group[:min(len(group), 1<<15-1)])).AppendRequest(nil, req, 7)[4:])
		}
	}
	w := newWorld(f)
	w.create("orders", 2, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		c := dial(t, w.addr)
		_, err := c.c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
		require.NoError(t, err)
		require.NoError(t, c.c.(*net.TCPConn).CloseWrite())
		_, err = io.Copy(io.Discard, c.c)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "neither answered nor closed")
		require.NotEmpty(t, exchange[*kmsg.MetadataResponse](dial(t, w.addr), kmsg.NewPtrMetadataRequest(), 9).Brokers)
		w.requireNoPanic(t)
	})
}
