package upstream_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/upstream"
)

// Whatever a broker answers to the general client, a question ends in its time, costs
// little, says what was wrong, and the next one goes well.
func TestGeneralClientChecksAnswers(t *testing.T) {
	frame := func(corr []byte, body ...byte) []byte {
		return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(corr)+len(body))), corr...), body...)
	}
	announce := func(size uint32, corr []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, size), corr...)
	}
	many := func(b ...byte) []byte { return append(b, 0xff, 0xff, 0xff, 0xff, 0x0f) }
	const cutOff, tooMany = "cut off, or says it has more elements", "too many elements"
	for name, c := range map[string]struct {
		key    kmsg.Key
		answer func(corr []byte) []byte
		text   string
	}{
		"a huge length":        {kmsg.Metadata, func(corr []byte) []byte { return announce(1<<31-1, corr) }, "2147483647 bytes"},
		"above the bound":      {kmsg.Metadata, func(corr []byte) []byte { return announce(2<<20, corr) }, "2097152 bytes"},
		"a negative length":    {kmsg.Metadata, func(corr []byte) []byte { return announce(0xffffffff, corr) }, "-1 bytes"},
		"no correlation":       {kmsg.Metadata, func([]byte) []byte { return frame(nil, 1, 2) }, "2 bytes"},
		"another correlation":  {kmsg.Metadata, func([]byte) []byte { return frame([]byte{9, 9, 9, 9}) }, "request 151587081"},
		"nothing":              {kmsg.Metadata, func(corr []byte) []byte { return frame(corr) }, cutOff},
		"tags in the header":   {kmsg.Metadata, func(corr []byte) []byte { return frame(corr, many()...) }, tooMany},
		"brokers":              {kmsg.Metadata, func(corr []byte) []byte { return frame(corr, many(0, 0, 0, 0, 0)...) }, cutOff},
		"tags in the body":     {kmsg.Metadata, func(corr []byte) []byte { return frame(corr, many(0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0)...) }, tooMany},
		"versions":             {kmsg.ApiVersions, func(corr []byte) []byte { return frame(corr, many(0, 0)...) }, cutOff},
		"tags of versions":     {kmsg.ApiVersions, func(corr []byte) []byte { return frame(corr, many(0, 0, 1, 0, 0, 0, 0)...) }, tooMany},
		"a version not served": {kmsg.ApiVersions, func(corr []byte) []byte { return frame(corr, 0, 35, 0x7f, 0xff, 0xff, 0xff) }, cutOff},
		"half an answer":       {kmsg.Metadata, func(corr []byte) []byte { return append(announce(1<<19, corr), 1, 2, 3) }, ""},
		"an alert of TLS":      {kmsg.ApiVersions, func([]byte) []byte { return []byte{0x15, 3, 3, 0, 2, 2, 70} }, "speaks TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			var well atomic.Bool
			var lines logs
			k := embedded(t, kfake.SeedTopics(1, "t"))
			bad := hostile(t, int16(c.key), c.answer)
			cfg := upstream.Config{AdminTimeout: 600 * time.Millisecond, ResponseBytesMax: 1 << 20, Logger: slog.New(slog.NewTextHandler(&lines, nil))}
			cfg.Dialer = switched(&well, bad)
			cluster := open(t, cfg, k.ListenAddrs()...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			_, err := cluster.Info(t.Context())
			runtime.ReadMemStats(&after)
			require.Less(t, time.Since(began), 5*time.Second)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20))
			require.Equal(t, federation.ClusterUnavailable, federation.KindOf(err), "%v", err)
			require.ErrorContains(t, err, c.text)
			require.NotContains(t, err.Error(), "127.0.0.1", "addresses are for the log")
			if c.text != "" && c.text != "speaks TLS" {
				require.ErrorContains(t, err, `physical cluster "a" gives answers that cannot be read: a broker's answer to `+c.key.Name())
				require.Equal(t, 1, strings.Count(lines.String(), "a broker's answer cannot be read"), lines.String())
			}

			well.Store(true)
			require.Eventually(t, func() bool { _, err := cluster.Info(t.Context()); return err == nil }, 10*time.Second, 10*time.Millisecond)
			topics, err := cluster.Topics(t.Context(), "t")
			require.NoError(t, err)
			require.Len(t, topics["t"].Partitions, 1)
		})
	}
}

// switched dials brokers as they are once well is set.
func switched(well *atomic.Bool, bad upstream.Dialer) upstream.Dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if well.Load() {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}
		return bad(ctx, network, addr)
	}
}

// A broker that says to ask nothing for 24 days is asked again in a second.
func TestThrottleIsBounded(t *testing.T) {
	k := embedded(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	var asked atomic.Int32
	k.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if asked.Add(1) != 1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		resp.ThrottleMillis = 1<<31 - 1
		return resp, nil, true
	})
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	began := time.Now()
	require.Eventually(t, func() bool {
		topics, err := c.Topics(t.Context(), "t")
		return err == nil && len(topics) == 1
	}, 5*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, time.Since(began), 900*time.Millisecond, "it is heeded")
}

// Brokers that go on telling of an older epoch than they did are believed.
func TestOlderEpochIsBelieved(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	var lied atomic.Bool
	k.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if len(req.(*kmsg.MetadataRequest).Topics) == 0 || !lied.CompareAndSwap(false, true) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = new("t")
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Leader, p.LeaderEpoch = 77, 1<<31-1
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	leader := func() upstream.Leader {
		l, wait := c.Leader("t", 0)
		for l.Broker < 0 {
			<-wait
			l, wait = c.Leader("t", 0)
		}
		return l
	}
	require.EqualValues(t, 77, leader().Broker)
	c.Stale("t")
	require.EqualValues(t, 77, leader().Broker, "an older epoch is not believed at once")
	require.Eventually(t, func() bool { c.Stale("t"); return leader().Broker != 77 }, 10*time.Second, 50*time.Millisecond)
}

// A batch with a flipped bit is asked for again: whoever copied it would give it a CRC of
// its own.
func TestReadBatchesAsksAgainForABrokenBatch(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	whole := batch(pid, 0, 0, 1)
	add(t, c, part("t", 0), whole)
	var broken atomic.Bool
	k.ControlKey(kmsg.Fetch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if !broken.CompareAndSwap(false, true) {
			return nil, nil, false
		}
		asked := req.(*kmsg.FetchRequest).Topics[0]
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		rt, rp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		rt.Topic, rt.TopicID = asked.Topic, asked.TopicID
		rp.HighWatermark, rp.LastStableOffset, rp.RecordBatches = 1, 1, bytes.Clone(whole)
		rp.RecordBatches[len(whole)-1] ^= 1
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	n := 0
	require.NoError(t, c.ReadBatches(t.Context(), part("t", 0), 0, 1, func(_ recordbatch.Header, b []byte) bool {
		n++
		require.True(t, recordbatch.Intact(b))
		return true
	}))
	require.True(t, broken.Load())
	require.Equal(t, 1, n)
}
