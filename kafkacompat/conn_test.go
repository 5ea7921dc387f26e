package kafkacompat_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/kafkacompat"
)

// longPoll asks for the end of orders-0 and waits.
func longPoll(w *world, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes = int32(wait.Milliseconds()), 1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = "orders", w.Current().Topics["orders"].ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func TestAnswersKeepTheOrderOfRequests(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	c := w.dial()
	// The produce behind the long poll is submitted at once: it ends the long poll.
	fetch := longPoll(w, 20*time.Second)
	produce := produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x"))
	meta := kmsg.NewPtrMetadataRequest()
	first := c.send(fetch, 13)
	second := c.send(produce, 9)
	third := c.send(meta, 12)
	got := c.receive(fetch, first).(*kmsg.FetchResponse)
	require.NotEmpty(t, got.Topics[0].Partitions[0].RecordBatches)
	require.Zero(t, c.receive(produce, second).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
	require.Len(t, c.receive(meta, third).(*kmsg.MetadataResponse).Topics, 1)
}

func TestManyPipelinedProduces(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.RequestsInFlightMax = 8 })
	w.create("orders", 1, nil)
	c := w.dial()
	const n = 300
	req := produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x"))
	req.SetVersion(9)
	go func() {
		for i := range int32(n) {
			_, _ = c.c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, i))
		}
	}()
	for i := range int32(n) {
		resp := c.receive(req, i).(*kmsg.ProduceResponse)
		require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
		require.EqualValues(t, i, resp.Topics[0].Partitions[0].BaseOffset)
	}
}

func TestAPIVersions(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "some-client", "1.2.3"
	for v := int16(0); v <= 4; v++ {
		resp := exchange[*kmsg.ApiVersionsResponse](c, req, v)
		require.Zero(t, resp.ErrorCode)
		keys := make(map[int16]kmsg.ApiVersionsResponseApiKey)
		for _, k := range resp.ApiKeys {
			keys[k.ApiKey] = k
		}
		require.Zero(t, keys[0].MinVersion, "older librdkafka turns features off otherwise")
		require.EqualValues(t, 13, keys[0].MaxVersion)
		require.EqualValues(t, 4, keys[1].MinVersion)
		for _, hidden := range []int16{24, 25, 26, 27, 28, 71, 72, 76} {
			require.NotContains(t, keys, hidden)
		}
		if v < 3 {
			require.Empty(t, resp.FinalizedFeatures)
			continue
		}
		// group.version offers KIP-848; transaction.version is left out.
		require.Len(t, resp.FinalizedFeatures, 1)
		require.Equal(t, "group.version", resp.FinalizedFeatures[0].Name)
		require.EqualValues(t, 1, resp.FinalizedFeatures[0].MaxVersionLevel)
		require.EqualValues(t, 0, resp.FinalizedFeaturesEpoch)
		require.Len(t, resp.SupportedFeatures, int(v-3), "one that begins at 0 is left out of v3")
	}
	// A version from the future: answered in v0, with the table, and the connection lives on.
	for _, v := range []int16{5, 127, 32767} {
		corr := c.send(req, v)
		got, b, err := c.frame()
		require.NoError(t, err)
		require.Equal(t, corr, got)
		resp := kmsg.NewPtrApiVersionsResponse()
		require.NoError(t, resp.ReadFrom(b))
		require.Equal(t, kerr.UnsupportedVersion.Code, resp.ErrorCode)
		require.NotEmpty(t, resp.ApiKeys)
	}
	for _, bad := range []string{"", "-x", "x y", "x-"} {
		req.ClientSoftwareName = bad
		require.Equal(t, kerr.InvalidRequest.Code, exchange[*kmsg.ApiVersionsResponse](c, req, 3).ErrorCode, bad)
	}
}

func TestBadFramesCloseTheConnection(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.StallTimeout = 300 * time.Millisecond })
	w.create("orders", 1, nil)
	head := func(size int32, key, version int16, rest ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(size))
		b = binary.BigEndian.AppendUint16(b, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		return append(b, rest...)
	}
	corr := []byte{0, 0, 0, 1}
	for name, b := range map[string][]byte{
		"negative length":        head(-5, 3, 9),
		"zero length":            head(0, 3, 9),
		"2 GB":                   head(1<<31-1, 0, 9),
		"over 16 MiB":            head(17<<20, 3, 9),
		"half a frame":           head(100, 3, 9, corr...),
		"half a head":            head(100, 3, 9)[:6],
		"half a large frame":     head(50<<20, 0, 9, corr...),
		"http":                   []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"tls":                    {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03},
		"unknown key":            head(10, 999, 0, append(corr, 0xff, 0xff)...),
		"hidden key":             head(10, 24, 0, append(corr, 0xff, 0xff)...),
		"version of the future":  head(10, 3, 99, append(corr, 0xff, 0xff)...),
		"version of the past":    head(10, 1, 3, append(corr, 0xff, 0xff)...),
		"header cut off":         head(10, 3, 9, append(corr, 0x7f, 0xff)...),
		"body cut off":           head(11, 3, 9, append(corr, 0xff, 0xff, 0)...),
		"more topics than bytes": head(16, 3, 9, append(corr, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0x7f, 0)...),
		"endless tags":           head(20, 3, 9, append(corr, 0xff, 0xff, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f)...),
		"produce cut off":        head(14, 0, 9, append(corr, 0xff, 0xff, 0, 0, 0xff, 0xff)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, w.addr)
			_, err := c.c.Write(b)
			require.NoError(t, err)
			c.closed(name)
		})
	}
	require.Len(t, exchange[*kmsg.MetadataResponse](w.dial(), kmsg.NewPtrMetadataRequest(), 12).Topics, 1, "others are unharmed")
}

// TestAnnouncedBytesTakeNoMemory: many connections announce 100 MB and send nothing.
func TestAnnouncedBytesTakeNoMemory(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	conns := make([]*raw, 100)
	for i := range conns {
		conns[i] = w.dial()
		_, err := conns[i].c.Write([]byte{0x05, 0xf5, 0xe1, 0x00, 0, 0, 0, 9, 0, 0, 0, 1})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return w.servers[0].Connections() == len(conns) }, 10*time.Second, time.Millisecond)
	// Others are served meanwhile.
	require.Zero(t, exchange[*kmsg.ProduceResponse](w.dial(), produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x")), 9).Topics[0].Partitions[0].ErrorCode)
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapAlloc, before.HeapAlloc+64<<20)
}

func TestLargeRequests(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, map[string]string{"max.message.bytes": "20000000"})
	value := make([]byte, 5<<20)
	for i := range value {
		value[i] = byte(i * 7919 >> 3)
	}
	b := batch(recordbatch.NoProducer, string(value))
	c := w.dial()
	for i := range 4 { // the second time, the buffer comes from the pool
		p := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, b), 9).Topics[0].Partitions[0]
		require.Zero(t, p.ErrorCode, sprint(p))
		require.EqualValues(t, i, p.BaseOffset)
	}
	// The first batch comes whole, even above the limits (KIP-74).
	req := longPoll(w, time.Second)
	req.MaxBytes = 1000
	req.Topics[0].Partitions[0].PartitionMaxBytes = 1000
	req.Topics[0].Partitions[0].FetchOffset = 2
	p := exchange[*kmsg.FetchResponse](c, req, 13).Topics[0].Partitions[0]
	h, ok := recordbatch.ParseHeader(p.RecordBatches)
	require.True(t, ok)
	require.EqualValues(t, 2, h.BaseOffset)
	require.Equal(t, b[21:], p.RecordBatches[21:h.Size()], "CRC onward, the batch is what was sent")
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.IdleTimeout = 150 * time.Millisecond })
	w.create("orders", 1, nil)
	c := w.dial()
	// A request that takes longer than the idle timeout is not idleness.
	resp := exchange[*kmsg.FetchResponse](c, longPoll(w, 500*time.Millisecond), 13)
	require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
	c.closed("idle")
	require.Eventually(t, func() bool { return w.servers[0].Connections() == 0 }, 10*time.Second, time.Millisecond)
}

func TestConnectionsAreBounded(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.ConnectionsMax = 2 })
	a, b := w.dial(), w.dial()
	require.Eventually(t, func() bool { return w.servers[0].Connections() == 2 }, 10*time.Second, time.Millisecond)
	w.dial().closed("the third")
	require.Zero(t, exchange[*kmsg.ApiVersionsResponse](a, kmsg.NewPtrApiVersionsRequest(), 0).ErrorCode)
	_ = b.c.Close()
	require.Eventually(t, func() bool { return w.servers[0].Connections() == 1 }, 10*time.Second, time.Millisecond)
	require.Zero(t, exchange[*kmsg.ApiVersionsResponse](w.dial(), kmsg.NewPtrApiVersionsRequest(), 0).ErrorCode)
}

func TestDrainAnswersWhatWasAsked(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	idle, waiting, writing := w.dial(), w.dial(), w.dial()
	require.Zero(t, exchange[*kmsg.ApiVersionsResponse](idle, kmsg.NewPtrApiVersionsRequest(), 0).ErrorCode)
	fetch := longPoll(w, 25*time.Second)
	corr := waiting.send(fetch, 13)
	produce := produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, "x"))
	require.Zero(t, exchange[*kmsg.ProduceResponse](writing, produce, 9).Topics[0].Partitions[0].ErrorCode)
	fetch.Topics[0].Partitions[0].FetchOffset = 1
	require.NotEmpty(t, waiting.receive(fetch, corr).(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches)
	corr = waiting.send(fetch, 13) // nothing more comes
	// Only when the request was read does Drain owe an answer.
	other := exchange[*kmsg.FetchResponse](w.dial(), func() *kmsg.FetchRequest { r := longPoll(w, 0); r.MinBytes = 0; return r }(), 13)
	require.Zero(t, other.ErrorCode)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, w.servers[0].Drain(ctx))
	got, _, err := waiting.frame()
	if err == nil { // it was read in time
		require.Equal(t, corr, got)
	}
	idle.closed("drained")
	writing.closed("drained")
	_, err = net.DialTimeout("tcp", w.addr, time.Second)
	require.Error(t, err, "the listener is closed")
	require.Zero(t, w.servers[0].Connections())
}

// TestDrainTellsMembersFirst: a member's connection stays until a heartbeat has told
// that another gateway coordinates. Without that, sarama takes its session for lost.
func TestDrainTellsMembersFirst(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.HandOverMax = time.Hour })
	w.addGateway("gw-1", 2, "")
	w.create("orders", 1, nil)
	group := "g"
	for i := 0; w.Current().GroupGateway(group).ID != "gw-0"; i++ {
		group = fmt.Sprint("g", i)
	}
	c, idle := w.dial(), w.dial()
	require.Zero(t, exchange[*kmsg.ApiVersionsResponse](idle, kmsg.NewPtrApiVersionsRequest(), 0).ErrorCode)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = group, 10_000, 10_000
	join.ProtocolType, join.Protocols = "consumer", protocolOf()
	joined := exchange[*kmsg.JoinGroupResponse](c, join, 2)
	require.Zero(t, joined.ErrorCode)
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = group, joined.Generation, joined.MemberID
	sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: assignmentOf(0)}}
	require.Zero(t, exchange[*kmsg.SyncGroupResponse](c, sync, 3).ErrorCode)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- w.servers[0].Drain(ctx) }()
	idle.closed("drained")
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.Generation, beat.MemberID = group, joined.Generation, joined.MemberID
	require.Zero(t, exchange[*kmsg.HeartbeatResponse](c, beat, 4).ErrorCode, "the group is here still")
	w.Change(func(m *federation.Map) {
		i := slices.IndexFunc(m.Gateways, func(g *federation.Gateway) bool { return g.ID == "gw-0" })
		g := *m.Gateways[i]
		g.State = federation.GatewayDraining
		m.Gateways[i] = &g
	})
	for code := int16(0); code == 0; { // the group's owner looks at the map by itself
		if code = exchange[*kmsg.HeartbeatResponse](c, beat, 4).ErrorCode; code != 0 {
			require.Equal(t, kerr.NotCoordinator.Code, code)
		}
	}
	c.closed("told")
	require.NoError(t, <-drained)
}

func TestClientGoesAwayInALongPoll(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	c := w.dial()
	c.send(longPoll(w, 25*time.Second), 13)
	require.Eventually(t, func() bool { return w.servers[0].Connections() == 1 }, 10*time.Second, time.Millisecond)
	_ = c.c.Close()
	require.Eventually(t, func() bool { return w.servers[0].Connections() == 0 }, 10*time.Second, time.Millisecond,
		"the wait ends with the client, not with max_wait")
}

// TestClientThatDoesNotRead asks for much and takes nothing.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorld(t, func(c *kafkacompat.Config) { c.StallTimeout = 300 * time.Millisecond })
	w.create("orders", 1, map[string]string{"max.message.bytes": "20000000"})
	c := w.dial()
	require.Zero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, string(make([]byte, 10<<20)))), 9).Topics[0].Partitions[0].ErrorCode)
	for range 20 {
		c.send(longPoll(w, time.Second), 13)
	}
	require.Eventually(t, func() bool { return w.servers[0].Connections() == 0 }, 20*time.Second, 5*time.Millisecond)
	_, err := io.Copy(io.Discard, c.r)
	_ = err // what was on its way may still come; the connection ends
	require.Zero(t, w.servers[0].Connections())
}
