package upstream_test

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

func open(t testing.TB, cfg upstream.Config, seeds ...string) *upstream.Cluster {
	t.Helper()
	pool := upstream.NewPool(cfg)
	t.Cleanup(pool.Close)
	pool.Update([]*federation.Cluster{{Name: "a", Seeds: seeds}})
	c, err := pool.Cluster("a")
	require.NoError(t, err)
	return c
}

func embedded(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.ClusterID("physical-a")}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestAdmin(t *testing.T) {
	k := embedded(t)
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	ctx := t.Context()
	info, err := c.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, "physical-a", info.ClusterID)
	require.Len(t, info.Brokers, 3)

	require.NoError(t, c.CreateTopic(ctx, "t", 2, 3, map[string]string{"retention.ms": "1000"}, false))
	require.NoError(t, c.CreateTopic(ctx, "t", 2, 3, nil, false), "the same topic again is fine")
	require.Equal(t, federation.TopicExists, federation.KindOf(c.CreateTopic(ctx, "t", 3, 3, nil, false)))
	require.Equal(t, federation.InvalidReplicationFactor, federation.KindOf(c.CreateTopic(ctx, "u", 1, 9, nil, false)))
	require.NoError(t, c.CreatePartitions(ctx, "t", 4))
	require.NoError(t, c.CreatePartitions(ctx, "t", 3), "fewer than there are is fine")
	topics, err := c.Topics(ctx, "t", "none")
	require.NoError(t, err)
	require.Len(t, topics, 1)
	require.Len(t, topics["t"].Partitions, 4)

	require.NoError(t, c.SetTopicConfig(ctx, "t", map[string]string{"max.message.bytes": "5000"}, []string{"retention.ms"}, false))
	config, err := c.TopicConfig(ctx, "t")
	require.NoError(t, err)
	require.Equal(t, "5000", config["max.message.bytes"].Value)
	require.False(t, config["max.message.bytes"].Default)
	require.NoError(t, c.DeleteTopic(ctx, "t"))
	require.NoError(t, c.DeleteTopic(ctx, "t"), "a missing topic is fine")
}

func TestLeaderIsFoundAndRefreshed(t *testing.T) {
	k := embedded(t, kfake.SeedTopics(1, "t"))
	c := open(t, upstream.Config{}, k.ListenAddrs()...)
	leader := func() upstream.Leader {
		var l upstream.Leader
		require.Eventually(t, func() bool {
			var pending <-chan struct{}
			l, pending = c.Leader("t", 0)
			if pending != nil {
				<-pending
			}
			return l.Broker >= 0
		}, 5*time.Second, time.Millisecond)
		return l
	}
	was := leader()
	require.NoError(t, k.MoveTopicPartition("t", 0, (was.Broker+1)%3))
	require.Equal(t, was, leader(), "believed until somebody finds it wrong")
	c.Stale("t")
	require.Eventually(t, func() bool { return leader().Broker != was.Broker }, 5*time.Second, time.Millisecond)
	require.Greater(t, leader().Epoch, was.Epoch)
}

func TestUnreachableClusterIsAnErrorOfItsKind(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	c := open(t, upstream.Config{AdminTimeout: 300 * time.Millisecond}, addr)
	_, err = c.Info(t.Context())
	require.Equal(t, federation.ClusterUnavailable, federation.KindOf(err))
	require.NotContains(t, err.Error(), addr, "addresses are for the log")
	_, err = upstream.Probe(t.Context(), upstream.Config{AdminTimeout: 300 * time.Millisecond}, &federation.Cluster{Name: "a", Seeds: []string{addr}})
	require.Equal(t, federation.ClusterUnavailable, federation.KindOf(err))
}

// hostile stands between a client and an embedded cluster; it answers the
// requests of one API by itself.
func hostile(t *testing.T, key int16, answer func(corr []byte) []byte) upstream.Dialer {
	t.Helper()
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		up, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		near, far := net.Pipe()
		var mu sync.Mutex
		go func() {
			defer func() { _ = far.Close() }()
			buf := make([]byte, 64<<10)
			for {
				n, err := up.Read(buf)
				if err != nil {
					return
				}
				mu.Lock()
				_, err = far.Write(buf[:n])
				mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
		go func() {
			defer func() { _ = up.Close() }()
			for {
				head := make([]byte, 4)
				if _, err := readFull(far, head); err != nil {
					return
				}
				body := make([]byte, binary.BigEndian.Uint32(head))
				if _, err := readFull(far, body); err != nil {
					return
				}
				if int16(binary.BigEndian.Uint16(body)) == key {
					if a := answer(body[4:8]); a != nil {
						mu.Lock()
						_, _ = far.Write(a)
						mu.Unlock()
					}
					continue
				}
				if _, err := up.Write(slices.Concat(head, body)); err != nil {
					return
				}
			}
		}()
		return near, nil
	}
}

func readFull(c net.Conn, b []byte) (int, error) {
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		if err != nil {
			return n, err
		}
		n += m
	}
	return len(b), nil
}

// Whatever a broker answers, a request ends with an error and the next
// connection works.
func TestBrokersThatMisbehave(t *testing.T) {
	frame := func(size uint32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, size), rest...)
	}
	for name, answer := range map[string]func(corr []byte) []byte{
		"silent":              func([]byte) []byte { return nil },
		"a huge length":       func(corr []byte) []byte { return frame(2<<30-1, corr...) },
		"a negative length":   func(corr []byte) []byte { return frame(0xffffffff, corr...) },
		"another correlation": func([]byte) []byte { return frame(4, 9, 9, 9, 9) },
		"half a header":       func(corr []byte) []byte { return frame(4, corr...) },
		"half an answer":      func(corr []byte) []byte { return append(frame(100, corr...), 1, 2, 3) },
		"tags in the header":  func(corr []byte) []byte { return append(frame(9, corr...), 0xff, 0xff, 0xff, 0xff, 0x0f) },
		"tags in the body": func(corr []byte) []byte {
			return append(frame(15, corr...), 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f)
		},
		"garbage": func(corr []byte) []byte { return append(frame(12, corr...), 0, 255, 255, 255, 255, 255, 255, 255) },
	} {
		t.Run(name, func(t *testing.T) {
			k := embedded(t, kfake.SeedTopics(1, "t"))
			c := open(t, upstream.Config{RequestTimeout: 200 * time.Millisecond, Dialer: hostile(t, kmsg.ListOffsets.Int16(), answer)}, k.ListenAddrs()...)
			conn, err := c.Conn(t.Context(), 0, upstream.UseQuery, 0)
			require.NoError(t, err)
			req := kmsg.NewPtrListOffsetsRequest()
			_, err = conn.Request(t.Context(), req)
			require.Error(t, err)
			again, err := c.Conn(t.Context(), 0, upstream.UseQuery, 0)
			require.NoError(t, err)
			rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
			rt.Topic, rt.Partitions = "t", append(rt.Partitions, kmsg.NewOffsetForLeaderEpochRequestTopicPartition())
			epochs := kmsg.NewPtrOffsetForLeaderEpochRequest()
			epochs.Topics = append(epochs.Topics, rt)
			resp, err := again.Request(t.Context(), epochs)
			require.NoError(t, err)
			require.Len(t, resp.(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions, 1)
		})
	}
}

func TestPipelinedRequestsAreBounded(t *testing.T) {
	k := embedded(t)
	c := open(t, upstream.Config{ConnRequestsMax: 2}, k.ListenAddrs()...)
	conn, err := c.Conn(t.Context(), 0, upstream.UseQuery, 0)
	require.NoError(t, err)
	require.True(t, conn.TryAcquire())
	require.True(t, conn.TryAcquire())
	require.False(t, conn.TryAcquire())
	done := make(chan error, 1)
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(4)
	conn.Send(req.Key(), 4, false, net.Buffers{req.AppendTo(nil)}, func(b *upstream.Buffer, err error) {
		if err == nil {
			b.Release()
		}
		done <- err
	})
	require.NoError(t, <-done)
	require.True(t, conn.TryAcquire(), "the answer gave its slot back")
}
