package upstream

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
	"github.com/braidmq/braid/internal/layout/layouttest"
)

// answers calls f with random answers of all kinds and versions that have a layout.
func answers(seeds uint64, f func(resp kmsg.Response, body []byte)) {
	for key := range layouts {
		for v := int16(0); v <= kmsg.ResponseForKey(key).MaxVersion(); v++ {
			for seed := range seeds {
				resp := kmsg.ResponseForKey(key)
				layouttest.Fill(rand.New(rand.NewPCG(seed, uint64(v))), reflect.ValueOf(resp).Elem(), true)
				resp.SetVersion(v)
				f(resp, resp.AppendTo(nil))
			}
		}
	}
}

// TestLayoutsOfAnswers decodes random answers of each version, whole and cut off.
func TestLayoutsOfAnswers(t *testing.T) {
	answers(40, func(resp kmsg.Response, b []byte) {
		what := fmt.Sprintf("%s v%d: %s", kmsg.NameForKey(resp.Key()), resp.GetVersion(), hex.EncodeToString(b))
		rest, err := layout.Walk(layouts[resp.Key()], b, resp.GetVersion(), resp.IsFlexible())
		require.NoError(t, err, what)
		require.Empty(t, rest, what)
		again := kmsg.ResponseForKey(resp.Key())
		again.SetVersion(resp.GetVersion())
		require.NoError(t, Decode(again, b), what)
		require.Equal(t, b, again.AppendTo(nil), what)
		for n := range b {
			require.Error(t, Decode(again, b[:n]), "cut at %d: %s", n, what)
		}
	})
}

// An answer of a few bytes, or of many that say nothing, costs neither memory nor time.
func TestCountsOfAnswersThatAreNotThere(t *testing.T) {
	many := []byte{0xff, 0xff, 0xff, 0xff, 0x0f} // 2^32-1
	fetch := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	partition := append(append(append([]byte{}, fetch...), 2, 2, 't', 2), make([]byte, 4+2+8+8+8+1+4+1)...)
	for name, c := range map[string]struct {
		resp kmsg.Response
		body []byte
	}{
		"tags":                {&kmsg.FetchResponse{Version: 12}, append(append(fetch, 1), many...)},
		"tags of a partition": {&kmsg.FetchResponse{Version: 12}, append(partition, many...)},
		"tags within a tag":   {&kmsg.FetchResponse{Version: 12}, append(append(partition, 1, 1, 13, 0, 0, 0, 1, 0, 0, 0, 1), many...)},
		"nodes in a tag":      {&kmsg.FetchResponse{Version: 12}, append(append(fetch, 1, 1, 0, 5), many...)},
		"partitions":          {&kmsg.FetchResponse{Version: 11}, append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 't', 0, 0x80, 0, 0}, make([]byte, 8<<20)...)},
		"aborted":             {&kmsg.FetchResponse{Version: 4}, append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0}, make([]byte, 8<<20)...)},
		"offsets":             {&kmsg.ListOffsetsResponse{Version: 7}, append([]byte{0, 0, 0, 0, 1}, many...)},
		"producers":           {&kmsg.DescribeProducersResponse{}, append([]byte{0, 0, 0, 0, 1}, many...)},
		"mechanisms":          {&kmsg.SASLHandshakeResponse{Version: 1}, []byte{0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 1, 'x'}},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		err := Decode(c.resp, c.body)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		require.True(t, err != nil && took < time.Second, "%s: %v in %s", name, err, took)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), name)
	}
	require.ErrorContains(t, Decode(kmsg.NewPtrHeartbeatResponse(), nil), "is not known")
}

// FuzzAnswers decodes whatever a broker may answer: it costs no more memory than a multiple
// of its bytes, and what is decoded can be encoded and decoded again.
func FuzzAnswers(f *testing.F) {
	answers(2, func(resp kmsg.Response, b []byte) { f.Add(resp.Key(), resp.GetVersion(), b) })
	f.Fuzz(func(t *testing.T, key, version int16, b []byte) {
		if layouts[key] == nil || version < 0 || version > kmsg.ResponseForKey(key).MaxVersion() || len(b) > 1<<16 {
			return
		}
		decode := func(b []byte) (kmsg.Response, error) {
			resp := kmsg.ResponseForKey(key)
			resp.SetVersion(version)
			return resp, Decode(resp, b)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		resp, err := decode(b)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+1000*len(b)), "%d bytes", len(b))
		if err != nil {
			return
		}
		_, err = decode(resp.AppendTo(nil))
		require.NoError(t, err)
	})
}

// fetched is an answer to Fetch of so many partitions with so many bytes each.
func fetched(partitions, bytes int) (resp *kmsg.FetchResponse, body []byte) {
	resp = kmsg.NewPtrFetchResponse()
	resp.Version = 12
	topic := kmsg.NewFetchResponseTopic()
	topic.Topic = "default.orders"
	for i := range partitions {
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.RecordBatches = int32(i), make([]byte, bytes)
		topic.Partitions = append(topic.Partitions, p)
	}
	resp.Topics = append(resp.Topics, topic)
	return resp, resp.AppendTo(nil)
}

// BenchmarkDecodeFetch compares the codec alone with the whole of Decode.
func BenchmarkDecodeFetch(b *testing.B) {
	for _, partitions := range []int{1, 50, 1000} {
		resp, body := fetched(partitions, 4096)
		for name, decode := range map[string]func() error{
			"codec":  func() error { return resp.ReadFrom(body) },
			"decode": func() error { return Decode(resp, body) },
			"walk":   func() error { _, err := layout.Walk(layouts[1], body, 12, true); return err },
		} {
			b.Run(fmt.Sprintf("partitions=%d/%s", partitions, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := decode(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
