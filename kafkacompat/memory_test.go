package kafkacompat_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/recordbatch"
)

// TestGroupsStayWithinTheirRoom has connections join groups of their own with as much as a
// member may bring, and a session of half an hour. It is bounded, also after they are gone,
// and another client joins.
func TestGroupsStayWithinTheirRoom(t *testing.T) {
	room := groups.NewRoom(4 << 20)
	w := startWorld(t, &world{room: room})
	w.create("orders", 1, nil)
	join := func(group string) *kmsg.JoinGroupRequest {
		req := joinNew(group)
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 1_800_000, 1_800_000
		req.Protocols[0].Metadata = make([]byte, 250_000)
		return req
	}
	codes := make([]map[int16]int, 4)
	var wg sync.WaitGroup
	for i := range codes {
		c := w.dial()
		codes[i] = map[int16]int{}
		wg.Go(func() {
			for n := range 10 {
				codes[i][exchange[*kmsg.JoinGroupResponse](c, join(fmt.Sprintf("abuse-%d-%d", i, n)), 1).ErrorCode]++
			}
			_ = c.c.Close()
		})
	}
	wg.Wait()
	all := map[int16]int{}
	for _, m := range codes {
		for code, n := range m {
			all[code] += n
		}
	}
	require.Len(t, all, 2)
	require.InDelta(t, 8, all[0], 2, "joined")
	require.Equal(t, 40-all[0], all[kerr.CoordinatorLoadInProgress.Code], "the others are told to try again")
	require.LessOrEqual(t, room.Used(), room.Size()/2)
	require.EqualValues(t, 40-all[0], room.Refused())

	c := dial(t, w.listen("alice"))
	require.Zero(t, exchange[*kmsg.JoinGroupResponse](c, join("honest"), 1).ErrorCode)
	require.LessOrEqual(t, room.Used(), room.Size())
}

// Members that wait for the others take no room of requests.
func TestJoinsThatWaitTakeNoRoom(t *testing.T) {
	room := groups.NewRoom(4 << 20)
	w := startWorld(t, &world{room: room})
	w.create("orders", 1, nil)
	first, second := w.dial(), w.dial()
	again := joinNew("waits")
	again.MemberID = exchange[*kmsg.JoinGroupResponse](first, joinNew("waits"), 1).MemberID

	req := joinNew("waits")
	req.Protocols[0].Metadata = make([]byte, 200_000)
	corr := second.send(req, 1)
	require.Eventually(t, func() bool { return room.Used() > 200_000 && w.servers[0].BytesInUse() == 0 }, 10*time.Second, time.Millisecond)
	require.Len(t, exchange[*kmsg.JoinGroupResponse](first, again, 1).Members, 2)
	require.Zero(t, second.receive(req, corr).(*kmsg.JoinGroupResponse).ErrorCode)
}

// Clients that send ten times of what the gateway may hold are slowed down: nothing is
// refused, the budget holds, and all goes on when the clusters do.
func TestRequestsStayWithinTheBudget(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 2, nil)
	const size, clients, each = 8 << 20, 10, 9
	w.requests = memory.NewBudget(size)
	addr := w.addGateway("gw-1", 2, "")
	gate := make(chan struct{})
	for _, c := range w.clusters {
		c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			c.SleepControl(func() { <-gate })
			return nil, nil, false
		})
	}
	value := string(make([]byte, 1_000_000))
	var wg sync.WaitGroup
	for i := range clients {
		c := dial(t, addr)
		req := produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, value))
		req.Topics[0].Partitions[0].Partition = int32(i % 2)
		req.SetVersion(9)
		frame := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)
		wg.Go(func() { // as much as the client sends without an answer
			for range each {
				if _, err := c.c.Write(frame); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range each {
				resp := c.receive(req, 1).(*kmsg.ProduceResponse)
				if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
					t.Errorf("produce: error code %d", code)
				}
				if used := w.requests.Used(); used > size+64<<10 { // and a small request
					t.Errorf("%d bytes are in memory, more than the budget of %d", used, size)
				}
			}
		})
	}
	require.Eventually(t, func() bool { return w.requests.Waiting() >= clients-8 }, 10*time.Second, time.Millisecond, "readers wait")
	// A small request waits for none of them.
	require.Len(t, exchange[*kmsg.MetadataResponse](dial(t, addr), askMetadata("orders"), 12).Topics, 1)
	require.NotZero(t, w.requests.Waiting())
	require.LessOrEqual(t, w.requests.Used(), int64(size))
	require.Greater(t, w.requests.Used(), int64(size/2))
	close(gate)
	wg.Wait()
	require.Zero(t, w.requests.Waiting())

	// A request that would take more than a half could wait for itself.
	c := dial(t, addr)
	_, err := c.c.Write([]byte{0, 0x50, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1}) // 5 MiB
	require.NoError(t, err)
	c.closed("a request above half of the budget")
}

// Clients that never send the rest of their requests keep others from nothing: small
// requests go on at once, those of the same size within the time that one has to go on.
func TestHalvesOfRequestsLeaveRoom(t *testing.T) {
	for name, bad := range map[string]struct {
		announced, sent uint32
		many            int
	}{
		"small":              {60 << 10, 59 << 10, 40},
		"up to a unit":       {1 << 20, 1<<20 - 1, 6},
		"large, a unit sent": {4 << 20, 1 << 20, 6},
		"large, just begun":  {4 << 20, 5 << 10, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const size = 8 << 20
			w := newWorld(t)
			w.create("orders", 1, map[string]string{"max.message.bytes": "20000000"})
			w.requests = memory.NewBudget(size)
			addr := w.addGateway("gw-1", 2, "")
			half := binary.BigEndian.AppendUint32(nil, bad.announced)
			half = append(append(half, 0, 0, 0, 9), make([]byte, bad.sent-4)...)
			conns := make([]*raw, bad.many)
			for i := range conns {
				conns[i] = dial(t, addr)
				_, err := conns[i].c.Write(half)
				require.NoError(t, err)
			}
			require.Eventually(t, func() bool { return w.requests.Used() > int64(bad.announced)/2 }, 10*time.Second, time.Millisecond)
			produce := func(n int) time.Duration {
				began := time.Now()
				value := make([]byte, n)
				resp := exchange[*kmsg.ProduceResponse](dial(t, addr), produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, string(value))), 9)
				require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
				require.LessOrEqual(t, w.requests.Used(), int64(size+64<<10))
				return time.Since(began)
			}
			for _, n := range []int{100, 20 << 10, 500_000, 3 << 20} {
				// Those of the same size stand in line, and each in line takes a second at most.
				took := produce(n)
				require.Less(t, took, 20*time.Second)
				t.Log(n, took)
				if class(n) != class(int(bad.announced)) {
					require.Less(t, took, time.Second, "%d bytes", n)
				}
			}
			for _, c := range conns {
				_ = c.c.Close()
			}
			require.Eventually(t, func() bool { return w.requests.Used() == 0 && w.requests.Waiting() == 0 }, 10*time.Second, time.Millisecond)
		})
	}
}

func class(n int) int {
	switch {
	case n <= 64<<10:
		return 0
	case n <= 1<<20:
		return 1
	}
	return 2
}

// Requests that wait in line behind a long poll take room, whatever their size: there are
// few, and when others wait for it, the long poll ends.
func TestRequestsInLineLeaveRoom(t *testing.T) {
	w := newWorld(t)
	w.create("orders", 1, nil)
	const size, many = 8 << 20, 150
	w.requests = memory.NewBudget(size)
	addr := w.addGateway("gw-1", 2, "")
	poll := longPoll(w, 30*time.Second)
	poll.SetVersion(13)
	frames := kmsg.NewRequestFormatter().AppendRequest(nil, poll, 1)
	ask := askMetadata("orders", strings.Repeat("x", 30_000), strings.Repeat("y", 30_000))
	ask.SetVersion(8)
	for i := range int32(64) {
		frames = append(frames, kmsg.NewRequestFormatter().AppendRequest(nil, ask, 2+i)...)
	}
	var writers sync.WaitGroup
	conns := make([]*raw, many)
	for i := range conns {
		conns[i] = dial(t, addr)
		writers.Go(func() { _, _ = conns[i].c.Write(frames) }) // it is cut off
	}
	server := w.servers[len(w.servers)-1]
	require.Eventually(t, func() bool { return server.BytesInUse() > size*3/4 }, 10*time.Second, time.Millisecond)
	for range 20 {
		began := time.Now()
		resp := exchange[*kmsg.ProduceResponse](dial(t, addr), produceRequest(w, "orders", -1, batch(recordbatch.NoProducer, string(make([]byte, 10_000)))), 9)
		require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
		require.Less(t, time.Since(began), 10*time.Second)
		require.LessOrEqual(t, server.BytesInUse(), int64(size+size/8))
	}
	for _, c := range conns {
		_ = c.c.Close()
	}
	writers.Wait()
}
