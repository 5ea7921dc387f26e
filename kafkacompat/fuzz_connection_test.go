package kafkacompat_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/kafkacompat"
)

// formatted is a request with its length field.
func formatted(req kmsg.Request, version int16) []byte {
	req.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz")).AppendRequest(nil, req, 7)
}

// talk sends what a client may send on a connection, length fields and all, and returns
// all that it is told. The server must close within the connection's deadline.
func talk(t *testing.T, addr string, b []byte) []byte {
	t.Helper()
	c := dial(t, addr)
	if _, err := c.c.Write(b); err == nil {
		_ = c.c.(*net.TCPConn).CloseWrite() // the server may have closed first
	}
	answers, err := io.ReadAll(c.c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "neither answered nor closed")
	return answers
}

// FuzzConnection sends bytes to the reader of requests: lengths that lie, requests that
// are cut, and some behind each other.
func FuzzConnection(f *testing.F) {
	metadata, versions := formatted(kmsg.NewPtrMetadataRequest(), 9), formatted(kmsg.NewPtrApiVersionsRequest(), 3)
	produce := kmsg.NewPtrProduceRequest()
	produce.Acks = 0
	f.Add(append(bytes.Clone(versions), metadata...))
	f.Add(append(bytes.Clone(versions), metadata[:len(metadata)-1]...))
	f.Add(append(formatted(produce, 9), versions...))
	f.Add(append(formatted(kmsg.NewPtrFetchRequest(), 12), versions...))
	f.Add([]byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	w := newWorld(f)
	w.create("orders", 2, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		talk(t, w.addr, b)
		require.NotEmpty(t, exchange[*kmsg.MetadataResponse](dial(t, w.addr), kmsg.NewPtrMetadataRequest(), 9).Brokers)
		w.requireNoPanic(t)
	})
}

// FuzzSASL sends bytes to a server that asks who its clients are: whatever comes before,
// it answers nothing else to those who have not proven it.
func FuzzSASL(f *testing.F) {
	handshake := func(mechanism string, version int16) []byte {
		req := kmsg.NewPtrSASLHandshakeRequest()
		req.Mechanism = mechanism
		return formatted(req, version)
	}
	authenticate := func(version int16, message string) []byte {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = []byte(message)
		return formatted(req, version)
	}
	raw := func(message string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)
	}
	for _, m := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"} {
		for v := range int16(3) {
			f.Add(bytes.Join([][]byte{formatted(kmsg.NewPtrApiVersionsRequest(), 3), handshake(m, 1), authenticate(v, "\x00alice\x00guess"), authenticate(v, "n,,n=alice,r=abc"), authenticate(v, "c=biws,r=abc,p=AAAA")}, nil))
		}
		f.Add(bytes.Join([][]byte{handshake(m, 0), raw("n,,n=alice,r=abc"), raw("c=biws,r=abc,p=AAAA")}, nil))
		f.Add(bytes.Join([][]byte{handshake(m, 0), raw("\x00alice\x00guess"), raw("")}, nil))
	}
	f.Add(append(handshake("PLAIN", 0), 0x7f, 0xff, 0xff, 0xff))
	w := newWorld(f)
	secret := make([]byte, 18)
	_, _ = rand.Read(secret)
	w.user("alice", base64.StdEncoding.EncodeToString(secret))
	w.auth = authenticatorOf(w)
	addr := w.addGateway("gw-0", 1, "", func(c *kafkacompat.Config) {
		c.FailedAuthenticationDelay, c.AuthenticationTimeout = time.Millisecond, 5*time.Second
	})
	const corr = 0x5e55_10f1
	metadata := formatted(kmsg.NewPtrMetadataRequest(), 1)
	binary.BigEndian.PutUint32(metadata[8:], corr)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<18 {
			return
		}
		defer w.requireNoPanic(t)
		answers := talk(t, addr, append(bytes.Clone(b), metadata...))
		for len(answers) >= 8 {
			require.NotEqual(t, uint32(corr), binary.BigEndian.Uint32(answers[4:]), "answered without a password")
			answers = answers[min(len(answers), 4+int(binary.BigEndian.Uint32(answers))):]
		}
	})
}
