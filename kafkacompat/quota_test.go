package kafkacompat_test

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/recordbatch"
)

// quotaWorld starts a world with quotas, in which the topic orders exists.
func quotaWorld(t *testing.T) *world {
	t.Helper()
	w := startWorld(t, &world{quotas: &quota.Config{Window: 100 * time.Millisecond}})
	w.create("orders", 1, nil)
	return w
}

func (w *world) quota(user string, key federation.QuotaKey, v float64) {
	w.t.Helper()
	_, err := w.AlterQuotas(w.t.Context(), []federation.QuotaChange{{
		Entity: federation.QuotaEntity{User: federation.NamedQuota(user)}, Set: map[federation.QuotaKey]float64{key: v},
	}}, false)
	require.NoError(w.t, err)
}

const anonymous = "ANONYMOUS"

// muted requires that an answer comes no sooner than d after began: the connection was
// not read.
func muted(t *testing.T, began time.Time, d time.Duration) {
	t.Helper()
	require.GreaterOrEqual(t, time.Since(began), d-5*time.Millisecond)
}

func TestProducersAreThrottled(t *testing.T) {
	w := quotaWorld(t)
	c := w.dial()
	big := batch(recordbatch.NoProducer, strings.Repeat("x", 20_000))
	require.Zero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, big), 9).ThrottleMillis, "no quota")
	w.quota(anonymous, federation.QuotaProducerByteRate, 50_000)
	for _, version := range []int16{3, 9, 13} { // also clients that do not know of KIP-219 are answered at once
		began := time.Now()
		resp := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, big), version)
		answered := time.Now()
		require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
		throttle := time.Duration(resp.ThrottleMillis) * time.Millisecond
		require.Greater(t, throttle, 200*time.Millisecond, "15 kB above the window are 300 ms: version %d", version)
		require.Less(t, throttle, 500*time.Millisecond)
		require.Less(t, answered.Sub(began), 250*time.Millisecond, "the answer does not wait")
		exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0)
		muted(t, answered, throttle)
	}
	// Another connection shares the quota, another user does not.
	other := dial(t, w.listen("bob"))
	exchange[*kmsg.ProduceResponse](w.dial(), produceRequest(w, "orders", -1, big), 9)
	require.NotZero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, big), 9).ThrottleMillis)
	require.Zero(t, exchange[*kmsg.ProduceResponse](other, produceRequest(w, "orders", -1, big), 9).ThrottleMillis)
	// Whose quota is taken away is read again.
	w.quota(anonymous, federation.QuotaProducerByteRate, 100)
	resp := exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, big), 9)
	require.Equal(t, int32(10_000), (resp.ThrottleMillis+500)/1000*1000)
	began := time.Now()
	_, err := w.AlterQuotas(t.Context(), []federation.QuotaChange{{Entity: federation.QuotaEntity{User: federation.NamedQuota(anonymous)}, Remove: []federation.QuotaKey{federation.QuotaProducerByteRate}}}, false)
	require.NoError(t, err)
	require.Zero(t, exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, big), 9).ThrottleMillis)
	require.Less(t, time.Since(began), 5*time.Second)
}

// A quota that changes while a connection is muted ends that, and the new one mutes it anew.
func TestAConnectionIsMutedByTheNewestQuotas(t *testing.T) {
	w := quotaWorld(t)
	c := w.dial()
	big := batch(recordbatch.NoProducer, strings.Repeat("x", 20_000))
	produce := func() time.Duration {
		return time.Duration(exchange[*kmsg.ProduceResponse](c, produceRequest(w, "orders", -1, big), 9).ThrottleMillis) * time.Millisecond
	}
	w.quota(anonymous, federation.QuotaProducerByteRate, 100)
	require.Greater(t, produce(), 9*time.Second)
	w.quota(anonymous, federation.QuotaProducerByteRate, 50_000)
	throttle := produce() // read at once
	answered := time.Now()
	require.Greater(t, throttle, 200*time.Millisecond)
	require.Less(t, throttle, 2*time.Second)
	exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0)
	muted(t, answered, throttle)
	// Others' quotas change nothing.
	throttle, answered = produce(), time.Now()
	require.Greater(t, throttle, 200*time.Millisecond)
	for _, user := range []string{"alice", "bob", "carol"} {
		w.quota(user, federation.QuotaProducerByteRate, 50_000)
	}
	exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 0)
	muted(t, answered, throttle)
}

func TestConsumersAreThrottled(t *testing.T) {
	w := quotaWorld(t)
	w.write("orders", 0, 500)
	w.quota(anonymous, federation.QuotaConsumerByteRate, 10) // for seconds, however busy the machine is
	for _, version := range []int16{4, 11, 18} {
		f := w.fetcher(version)
		req := f.request("orders", []at{{0, 0}})
		req.MinBytes = 1
		f.forgetThrottle(w)
		began := time.Now()
		resp := exchange[*kmsg.FetchResponse](f.c, req, version)
		require.Less(t, time.Since(began), 2*time.Second)
		require.NotEmpty(t, resp.Topics, "version %d", version)
		require.NotEmpty(t, resp.Topics[0].Partitions[0].RecordBatches)
		require.NotZero(t, resp.ThrottleMillis)
		// Others of the same client get nothing until it is paid for, and are told so at once.
		o := w.fetcher(version)
		again := exchange[*kmsg.FetchResponse](o.c, o.request("orders", []at{{0, 0}}), version)
		require.Empty(t, again.Topics)
		require.Zero(t, again.ErrorCode)
		require.Zero(t, again.SessionID)
		require.Positive(t, again.ThrottleMillis)
		require.LessOrEqual(t, again.ThrottleMillis, resp.ThrottleMillis)
	}
}

// forgetThrottle has nobody owe anything: the quota is another one for a moment.
func (f *fetcher) forgetThrottle(w *world) {
	w.quota(anonymous, federation.QuotaConsumerByteRate, 1e9)
	exchange[*kmsg.FetchResponse](f.c, kmsg.NewPtrFetchRequest(), 11)
	w.quota(anonymous, federation.QuotaConsumerByteRate, 1000)
}

func TestRequestsAreThrottledForAMomentOnly(t *testing.T) {
	w := quotaWorld(t)
	w.quota(anonymous, federation.QuotaRequestRate, 0.001)
	c := w.dial()
	first := exchange[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest(), 9)
	require.Equal(t, int32(1000), (first.ThrottleMillis+50)/100*100, "a heartbeat must get through within a second")
	began := time.Now()
	require.NotZero(t, exchange[*kmsg.HeartbeatResponse](c, kmsg.NewPtrHeartbeatRequest(), 4).ThrottleMillis)
	muted(t, began, 900*time.Millisecond)
}

func TestChangesOfTopicsAreHeldToAQuota(t *testing.T) {
	w := quotaWorld(t)
	w.quota(anonymous, federation.QuotaControllerMutationRate, 100) // ten at once
	create := func(name string, partitions int32) *kmsg.CreateTopicsRequest {
		r := kmsg.NewPtrCreateTopicsRequest()
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 1
		r.Topics = append(r.Topics, rt)
		return r
	}
	c := w.dial()
	require.Zero(t, exchange[*kmsg.CreateTopicsResponse](c, create("one", 60), 7).Topics[0].ErrorCode)
	refused := exchange[*kmsg.CreateTopicsResponse](c, create("two", 1), 7)
	require.Equal(t, kerr.ThrottlingQuotaExceeded.Code, refused.Topics[0].ErrorCode)
	require.Contains(t, *refused.Topics[0].ErrorMessage, "controller_mutation_rate")
	require.NotZero(t, refused.ThrottleMillis)
	require.Nil(t, w.Current().Topics["two"])
	// The connection was not read until it may.
	require.Zero(t, exchange[*kmsg.CreateTopicsResponse](c, create("two", 30), 7).Topics[0].ErrorCode)
	grow := kmsg.NewPtrCreatePartitionsRequest()
	grow.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: "one", Count: 61}}
	require.Equal(t, kerr.ThrottlingQuotaExceeded.Code, exchange[*kmsg.CreatePartitionsResponse](c, grow, 3).Topics[0].ErrorCode)
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Topics = []kmsg.DeleteTopicsRequestTopic{{Topic: new("one")}}
	require.Zero(t, exchange[*kmsg.DeleteTopicsResponse](c, del, 6).Topics[0].ErrorCode)
	// Who does not know the error is not refused, but made to wait.
	old := exchange[*kmsg.CreateTopicsResponse](w.dial(), create("three", 1), 4)
	require.Zero(t, old.Topics[0].ErrorCode)
	require.NotZero(t, old.ThrottleMillis)
}

// What fails is not counted, and an error of what is asked for comes before that of the quota.
func TestChangesOfTopicsThatFailAreFree(t *testing.T) {
	w := quotaWorld(t)
	w.quota(anonymous, federation.QuotaControllerMutationRate, 100) // ten at once
	c := w.dial()
	create := func(name string, partitions int32, version int16) (int16, int32) {
		r := kmsg.NewPtrCreateTopicsRequest()
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 1
		r.Topics = append(r.Topics, rt)
		resp := exchange[*kmsg.CreateTopicsResponse](c, r, version)
		return resp.Topics[0].ErrorCode, resp.ThrottleMillis
	}
	for _, version := range []int16{4, 7} {
		code, throttle := create("orders", 1000, version)
		require.Equal(t, kerr.TopicAlreadyExists.Code, code)
		require.Zero(t, throttle)
		code, throttle = create("new"+string(rune('0'+version)), 1, version)
		require.Zero(t, code, "nothing is owed")
		require.Zero(t, throttle)
	}
	code, _ := create("large", 100, 7)
	require.Zero(t, code)
	c = w.dial() // which is not muted
	code, throttle := create("orders", 1, 7)
	require.Equal(t, kerr.TopicAlreadyExists.Code, code)
	require.Zero(t, throttle)
	code, throttle = create("another", 1, 7)
	require.Equal(t, kerr.ThrottlingQuotaExceeded.Code, code)
	require.NotZero(t, throttle)
}

// Until it is known who a client is, nobody's quota counts.
func TestRequestsBeforeAuthenticationAreNotHeldToQuotas(t *testing.T) {
	w := startWorld(t, &world{quotas: &quota.Config{Window: 100 * time.Millisecond}})
	addr := w.secure()
	_, err := w.AlterQuotas(t.Context(), []federation.QuotaChange{{
		Entity: federation.QuotaEntity{User: federation.NamedQuota("")}, Set: map[federation.QuotaKey]float64{federation.QuotaRequestRate: 0.001},
	}}, false)
	require.NoError(t, err)
	c := dial(t, addr)
	for range 3 {
		require.Zero(t, exchange[*kmsg.ApiVersionsResponse](c, kmsg.NewPtrApiVersionsRequest(), 3).ThrottleMillis)
	}
	require.Zero(t, w.limiter.Counted())
}

// A request is one change of the map, and has a bound.
func TestManyQuotasInOneRequest(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	request := func(n int) *kmsg.AlterClientQuotasRequest {
		r := kmsg.NewPtrAlterClientQuotasRequest()
		for i := range n {
			e := kmsg.NewAlterClientQuotasRequestEntry()
			e.Entity = []kmsg.AlterClientQuotasRequestEntryEntity{{Type: "user", Name: new(strconv.Itoa(i))}}
			e.Ops = []kmsg.AlterClientQuotasRequestEntryOp{{Key: "producer_byte_rate", Value: 1000}}
			r.Entries = append(r.Entries, e)
		}
		return r
	}
	before := w.Current().Version
	for _, e := range exchange[*kmsg.AlterClientQuotasResponse](c, request(1000), 1).Entries {
		require.Zero(t, e.ErrorCode)
	}
	require.Equal(t, before+1, w.Current().Version)
	require.Len(t, w.Current().Quotas, 1000)
	refused := exchange[*kmsg.AlterClientQuotasResponse](c, request(1001), 1).Entries
	require.Len(t, refused, 1001)
	for _, e := range refused {
		require.Equal(t, kerr.InvalidRequest.Code, e.ErrorCode)
		require.Contains(t, *e.ErrorMessage, "at most 1000")
	}
	require.Equal(t, before+1, w.Current().Version)
}

func TestQuotasByKafkasTools(t *testing.T) {
	w := newWorld(t)
	adm := kadm.NewClient(w.client())
	name, def := func(t, n string) kadm.ClientQuotaEntityComponent {
		return kadm.ClientQuotaEntityComponent{Type: t, Name: &n}
	},
		func(t string) kadm.ClientQuotaEntityComponent { return kadm.ClientQuotaEntityComponent{Type: t} }
	set := func(ops map[string]float64, entity ...kadm.ClientQuotaEntityComponent) kadm.AlterClientQuotaEntry {
		e := kadm.AlterClientQuotaEntry{Entity: entity}
		for k, v := range ops {
			e.Ops = append(e.Ops, kadm.AlterClientQuotaOp{Key: k, Value: v, Remove: math.IsNaN(v)})
		}
		return e
	}
	produce := map[string]float64{"producer_byte_rate": 1000}
	outcomes := func(entries ...kadm.AlterClientQuotaEntry) (out []error) {
		altered, err := adm.AlterClientQuotas(t.Context(), entries)
		require.NoError(t, err)
		for _, a := range altered {
			out = append(out, a.Err)
		}
		return out
	}
	require.Equal(t, []error{nil, nil, nil, nil, nil}, outcomes(
		set(map[string]float64{"producer_byte_rate": 1000, "request_percentage": 12.5}, name("user", "alice")),
		set(produce, name("user", "alice"), def("client-id")),
		set(produce, def("user")),
		set(map[string]float64{"consumer_byte_rate": 7}, name("client-id", "<default>")),
		set(map[string]float64{"connection_creation_rate": 7}, name("ip", "10.0.0.1")),
	))
	for why, bad := range map[string]kadm.AlterClientQuotaEntry{
		"empty entity":    set(produce),
		"unknown type":    set(produce, name("tenant", "x")),
		"twice":           set(produce, name("user", "x"), name("user", "y")),
		"empty name":      set(produce, name("user", "")),
		"unknown key":     set(map[string]float64{"bytes": 1}, name("user", "x")),
		"key of ips":      set(map[string]float64{"connection_creation_rate": 1}, name("user", "x")),
		"key of users":    set(produce, name("ip", "10.0.0.1")),
		"ip and user":     set(map[string]float64{"connection_creation_rate": 1}, name("ip", "10.0.0.1"), name("user", "x")),
		"no address":      set(map[string]float64{"connection_creation_rate": 1}, name("ip", "example.org")),
		"zero":            set(map[string]float64{"producer_byte_rate": 0}, name("user", "x")),
		"a part of bytes": set(map[string]float64{"producer_byte_rate": 1.5}, name("user", "x")),
	} {
		got := outcomes(bad, set(produce, name("user", "good")))
		require.Equal(t, []error{kerr.InvalidRequest, nil}, got, why)
	}
	require.Equal(t, []error{nil}, outcomes(set(map[string]float64{"producer_byte_rate": math.NaN()}, name("user", "good"))))
	require.Len(t, w.Current().Quotas, 5, "one without a value is none")

	list := func(strict bool, parts ...kadm.DescribeClientQuotaComponent) (out []string) {
		found, err := adm.DescribeClientQuotas(t.Context(), strict, parts)
		require.NoError(t, err)
		for _, q := range found {
			var text []string
			for _, e := range q.Entity {
				text = append(text, e.String())
			}
			for _, v := range q.Values {
				text = append(text, v.Key)
			}
			out = append(out, strings.Join(text, " "))
		}
		slices.Sort(out)
		return out
	}
	part := func(t string, how kmsg.QuotasMatchType, match ...string) kadm.DescribeClientQuotaComponent {
		c := kadm.DescribeClientQuotaComponent{Type: t, MatchType: how}
		if len(match) > 0 {
			c.MatchName = &match[0]
		}
		return c
	}
	require.Len(t, list(false), 5)
	require.Empty(t, list(true))
	require.Len(t, list(false, part("user", 2)), 3)
	require.Len(t, list(true, part("user", 2)), 2)
	require.Len(t, list(true, part("user", 0, "alice")), 1)
	require.Len(t, list(false, part("user", 0, "alice")), 2)
	require.Len(t, list(false, part("user", 1)), 1)
	require.Len(t, list(true, part("user", 2), part("client-id", 1)), 1)
	require.Len(t, list(false, part("client-id", 0, "<default>")), 1, "a name, and not the default")
	require.Len(t, list(true, part("ip", 2)), 1)
	for _, bad := range [][]kadm.DescribeClientQuotaComponent{{part("ip", 2), part("user", 2)}, {part("user", 2), part("user", 1)}, {part("user", 0)}, {part("", 2)}} {
		_, err := adm.DescribeClientQuotas(t.Context(), false, bad)
		require.ErrorIs(t, err, kerr.InvalidRequest)
	}
	_, err := adm.DescribeClientQuotas(t.Context(), false, []kadm.DescribeClientQuotaComponent{part("tenant", 2)})
	require.ErrorIs(t, err, kerr.UnsupportedVersion)
}
