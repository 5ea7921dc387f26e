package logging_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/logging"
)

func TestLongValuesAreCut(t *testing.T) {
	long := strings.Repeat("ü", 5<<20+500_000)
	topic := strings.Repeat("t", 249)
	for _, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		l := logging.New(&out, slog.LevelInfo, asJSON, logging.Config{})
		l.With("logger", "audit", "client", long).WithGroup("audit").Warn("denied", "name", topic, "group", long,
			"error", errors.New(long), "all", []string{long, "x"}, slog.Group("sub", "name", "a\xff\nb"+long), "stack", strings.Repeat("s", 5000))
		text := out.String()
		require.Less(t, len(text), 20<<10)
		require.Contains(t, text, topic)
		require.Contains(t, text, strings.Repeat("s", 5000))
		require.Equal(t, 5, strings.Count(text, "… (cut: "))
		require.Equal(t, 1, strings.Count(text, "\n"), "one line: what clients choose is escaped")
		require.NotContains(t, text, "\xff")
		if asJSON {
			require.True(t, json.Valid([]byte(text)))
		}
	}
}

func TestLinesOfClientsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		root := logging.New(&out, slog.LevelDebug, false, logging.Config{})
		l := logging.Limited(root)
		lines := func() []string {
			defer out.Reset()
			return strings.Split(strings.TrimSpace(out.String()), "\n")
		}
		for i := range 10_000 {
			l.With("remote", i).Warn("request refused")
		}
		l.Warn("another kind")
		first := lines()
		require.Len(t, first, 11)
		require.Contains(t, first[0], "remote=0")
		require.Contains(t, first[10], "another kind", "the first of each kind is written at once")
		require.NotContains(t, first[10], "left_out")

		<-time.After(time.Second)
		for range 100 {
			l.Warn("request refused")
			l.Debug("all of these")
			root.Warn("not caused by clients")
		}
		next := lines()
		require.Len(t, next, 201)
		require.Contains(t, next[0], "left_out=9990")

		// As many kinds as there may be: those above share one.
		for i := range 10_000 {
			l.Warn("kind " + strconv.Itoa(i)) //nolint:sloglint // kinds that are no constants are bounded
		}
		require.Less(t, len(lines()), 300)
	})
}

func TestLogOfHTTPServers(t *testing.T) {
	var out bytes.Buffer
	var tls, other int
	l := logging.HTTPErrors(logging.New(&out, slog.LevelInfo, false, logging.Config{}), func(isTLS bool) {
		if isTLS {
			tls++
		} else {
			other++
		}
	})
	for range 1000 {
		l.Print("http: TLS handshake error from 10.0.0.1:1: remote error: tls: bad certificate")
	}
	l.Print("http: TLS handshake error from 10.0.0.1:2: EOF")
	l.Print("http2: server connection error")
	require.Equal(t, 1001, tls)
	require.Equal(t, 1, other)
	require.Equal(t, 10, strings.Count(out.String(), "bad certificate"))
	require.NotContains(t, out.String(), "EOF")
	require.Contains(t, out.String(), "http2: server connection error")
}

func TestConfig(t *testing.T) {
	require.NoError(t, logging.Config{}.Validate())
	require.ErrorContains(t, logging.Config{ValueBytesMax: 100}.Validate(), "--log-value-bytes")
	require.ErrorContains(t, logging.Config{ClientLines: -1}.Validate(), "--log-client-lines")
}
