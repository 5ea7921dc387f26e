package embedded_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
)

// What all clients are pointed at is bounded as gateways are: both ports of a name service
// count to one limit, by memory if no number is given.
func TestNameServiceIsBounded(t *testing.T) {
	for name, limit := range map[string]func(c *process.Config){
		"number": func(c *process.Config) { c.Connections.ConnectionsMax = 4 },
		"memory": func(c *process.Config) { c.MemoryLimit = 4 * 4 * 32 << 10 },
	} {
		t.Run(name, func(t *testing.T) {
			f := embedded.New(t, embedded.Options{NameServers: 1, Brokers: 1, Configure: func(c *process.Config, _ int) {
				if c.Role == process.NameServer {
					limit(c)
				}
			}})
			server := f.NameServers()[0]
			api, err := url.Parse(server.URL())
			require.NoError(t, err)
			open := func(address string) net.Conn {
				c, err := net.Dial("tcp", address)
				require.NoError(t, err)
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			closed := func(c net.Conn, within time.Duration) bool {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
				_, err := c.Read(make([]byte, 1))
				timeout, ok := err.(net.Error) //nolint:errorlint // of the connection itself
				return !ok || !timeout.Timeout()
			}
			// Each port takes connections in their order, but neither waits for the other one: the
			// first that is too many comes to one of them when all of the other's have been taken.
			kept := []net.Conn{open(server.BootstrapAddress()), open(api.Host), open(server.BootstrapAddress()), open(api.Host)}
			for _, c := range []net.Conn{kept[1], kept[3]} {
				_, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: braid\r\n\r\n"))
				require.NoError(t, err)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				_ = resp.Body.Close()
			}
			for _, address := range []string{server.BootstrapAddress(), api.Host} {
				require.True(t, closed(open(address), 10*time.Second), "one too many")
			}
			for _, c := range kept {
				require.False(t, closed(c, 10*time.Millisecond))
			}
			_ = kept[0].Close()
			require.Eventually(t, func() bool { return !closed(open(server.BootstrapAddress()), 400*time.Millisecond) }, 20*time.Second, time.Millisecond)
		})
	}
}
