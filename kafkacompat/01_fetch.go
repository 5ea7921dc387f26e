package kafkacompat

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Fetch: v4-v18
//
// One long poll over all partitions, whatever clusters they lie on. The response
// is encoded by hand: the record batches go to the socket from where the router
// has them.
//
// Sessions (KIP-227) are declined: each request with a new session is answered
// with session id 0, and clients then send full requests.
//
// Version notes:
// * v4: isolation level, last stable offset, aborted transactions
// * v5: log start offset
// * v7: sessions, top-level error
// * v9: current leader epoch (KIP-320)
// * v11: rack, preferred read replica (always -1)
// * v12: flexible; last fetched epoch, diverging epoch (KIP-595)
// * v13: topic ids (KIP-516)
// * v15: replica state
// * v16: node endpoints (KIP-951)
// * v17, v18: replica fields

// fetchPart is one partition of a response.
type fetchPart struct {
	partition int32
	code      int16
	query     int // index in the positions asked of the router; -1 = refused here
	slice     *router.Slice
}

// fetchTopic is one topic of a response, in the request's order.
type fetchTopic struct {
	topic string
	id    [16]byte
	parts []fetchPart
}

// The session epochs that ask for all partitions (FetchMetadata.java).
const (
	sessionEpochInitial = 0
	sessionEpochFinal   = -1
)

func (c *conn) fetch(ctx context.Context, req *request) response {
	var kreq kmsg.FetchRequest
	kreq.SetVersion(req.version)
	if err := req.api.check(req.version, req.body); err != nil {
		return c.malformed(ctx, req, err)
	}
	if err := kreq.ReadFrom(req.body); err != nil {
		return c.malformed(ctx, req, err)
	}
	if kreq.SessionEpoch != sessionEpochInitial && kreq.SessionEpoch != sessionEpochFinal {
		return encodeFetch(req, req.refuse(kerr.FetchSessionIDNotFound), nil, nil)
	}
	topics, from := c.fetchPositions(req, &kreq)
	limit := c.fetchLimit(&kreq)
	if req.code != 0 {
		limit.MaxWait = 0 // an error is told at once, as in ReplicaManager.fetchMessages
	}
	if len(from) == 0 {
		return encodeFetch(req, 0, topics, nil)
	}
	fetched, err := c.session().Fetch(ctx, from, limit)
	if err != nil {
		code := req.failFetch(err)
		if ctx.Err() != nil { // the gateway drains: the client finds another one
			code = kerr.NotLeaderForPartition.Code
		}
		fillFetch(topics, func(p *fetchPart) { p.code = code })
		return encodeFetch(req, 0, topics, nil)
	}
	fillFetch(topics, func(p *fetchPart) {
		if p.query < len(fetched.Slices) {
			p.slice = &fetched.Slices[p.query]
			p.code = req.failFetch(p.slice.Err)
			passHole(p.slice, from[p.query].Offset)
		}
	})
	return encodeFetch(req, 0, topics, fetched)
}

// passHole has a client go on behind offsets that have no records, and nothing behind
// them yet: it would stay at its position, and wait for the end of the partition in vain.
func passHole(s *router.Slice, from federation.LogicalOffset) {
	if s.Err == nil && len(s.Records) == 0 && s.Next > from {
		s.Records = append(s.Records, recordbatch.Hole(s.Next, s.NextEpoch))
	}
}

func fillFetch(topics []fetchTopic, fill func(*fetchPart)) {
	for i := range topics {
		for j := range topics[i].parts {
			if p := &topics[i].parts[j]; p.query >= 0 {
				fill(p)
			}
		}
	}
}

func (c *conn) fetchLimit(kreq *kmsg.FetchRequest) router.FetchLimit {
	return router.FetchLimit{
		MinBytes:      max(kreq.MinBytes, 0),
		MaxBytes:      min(max(kreq.MaxBytes, 0), c.s.cfg.FetchBytesMax),
		MaxWait:       min(max(time.Duration(kreq.MaxWaitMillis)*time.Millisecond, 0), c.s.cfg.FetchWaitMax),
		ReadCommitted: kreq.IsolationLevel == 1,
	}
}

// fetchPositions resolves the partitions of a request.
func (c *conn) fetchPositions(req *request, kreq *kmsg.FetchRequest) ([]fetchTopic, []router.Position) {
	m := c.s.mapOrNil()
	topics := make([]fetchTopic, len(kreq.Topics))
	n := 0
	for i := range kreq.Topics {
		n += len(kreq.Topics[i].Partitions)
	}
	from := make([]router.Position, 0, n)
	for i := range kreq.Topics {
		kt, t := &kreq.Topics[i], &topics[i]
		t.topic, t.id = kt.Topic, kt.TopicID
		found, unknown := findTopic(m, req.version >= 13, kt.Topic, kt.TopicID)
		t.parts = make([]fetchPart, len(kt.Partitions))
		for j := range kt.Partitions {
			kp, p := &kt.Partitions[j], &t.parts[j]
			p.partition, p.query = kp.Partition, -1
			switch {
			case kreq.ReplicaID >= 0 || kreq.ReplicaState.ID >= 0:
				p.code = req.refuse(kerr.ClusterAuthorizationFailed) // no broker replicates from a gateway
			case m == nil:
				p.code = req.refuse(kerr.NotLeaderForPartition)
			case found == nil:
				p.code = req.refuse(unknown)
			case kp.Partition < 0 || int(kp.Partition) >= len(found.Partitions):
				p.code = req.refuse(kerr.UnknownTopicOrPartition)
			default:
				p.query = len(from)
				from = append(from, router.Position{
					TopicPartition:   federation.TopicPartition{Topic: found.Name, Partition: federation.LogicalPartition(kp.Partition)},
					Offset:           federation.LogicalOffset(kp.FetchOffset),
					MaxBytes:         max(kp.PartitionMaxBytes, 0),
					CurrentEpoch:     federation.LogicalEpoch(kp.CurrentLeaderEpoch),
					LastFetchedEpoch: federation.LogicalEpoch(kp.LastFetchedEpoch),
				})
			}
		}
	}
	return topics, from
}

// findTopic finds a topic by id or name; if there is none, it says with which
// error.
func findTopic(m *federation.Map, byID bool, name string, id federation.TopicID) (*federation.Topic, *kerr.Error) {
	if m == nil {
		return nil, kerr.LeaderNotAvailable
	}
	if byID {
		return m.TopicByID(id), kerr.UnknownTopicID
	}
	return m.Topics[federation.TopicName(name)], kerr.UnknownTopicOrPartition
}

// fetchEncoder writes the fields of a Fetch response, with a cut where record
// bytes go between.
type fetchEncoder struct {
	b       []byte
	cuts    []int // lengths of b at which the next of records goes
	records [][]byte
	size    int // of records
}

// encodeFetch encodes a response; topics in the request's order. The bytes of
// fetched are not copied: they are released after they were written.
func encodeFetch(req *request, code int16, topics []fetchTopic, fetched *router.Fetched) response {
	v := req.version
	flexible := v >= 12
	e := fetchEncoder{b: make([]byte, 0, 128+96*len(topics))}
	e.b = appendResponseHead(e.b, req, flexible)
	e.b = appendI32(e.b, 0) // throttle
	if v >= 7 {
		e.b = appendI16(e.b, code)
		e.b = appendI32(e.b, 0) // session id: none
	}
	e.b = appendLength(e.b, len(topics), flexible, false)
	for i := range topics {
		t := &topics[i]
		if v >= 13 {
			e.b = append(e.b, t.id[:]...)
		} else {
			e.b = appendStr(e.b, t.topic, flexible)
		}
		e.b = appendLength(e.b, len(t.parts), flexible, false)
		for j := range t.parts {
			e.partition(&t.parts[j], v)
		}
		if flexible {
			e.b = append(e.b, 0)
		}
	}
	if flexible {
		e.b = append(e.b, 0)
	}
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4+e.size))
	resp := response{vecs: e.vectors()}
	if fetched != nil {
		resp.release = fetched.Release
	}
	return resp
}

// noSlice stands for what could not be read.
var noSlice = router.Slice{HighWatermark: -1, LastStable: -1, LogStart: -1}

func (e *fetchEncoder) partition(p *fetchPart, v int16) {
	flexible := v >= 12
	s := p.slice
	if s == nil {
		s = &noSlice
	}
	e.b = appendI32(e.b, p.partition)
	e.b = appendI16(e.b, p.code)
	e.b = appendI64(e.b, int64(s.HighWatermark))
	e.b = appendI64(e.b, int64(s.LastStable))
	if v >= 5 {
		e.b = appendI64(e.b, int64(s.LogStart))
	}
	aborted := len(s.Aborted)
	if s.Aborted == nil {
		aborted = -1 // as a broker answers read_uncommitted
	}
	e.b = appendLength(e.b, aborted, flexible, false)
	for _, a := range s.Aborted {
		e.b = appendI64(e.b, a.ProducerID)
		e.b = appendI64(e.b, int64(a.FirstOffset))
		if flexible {
			e.b = append(e.b, 0)
		}
	}
	if v >= 11 {
		e.b = appendI32(e.b, -1) // preferred read replica
	}
	// Empty, never null: librdkafka takes the length -1 for a broken message set.
	e.b = appendLength(e.b, s.Bytes(), flexible, false)
	for _, r := range s.Records {
		e.cuts = append(e.cuts, len(e.b))
		e.records = append(e.records, r)
		e.size += len(r)
	}
	if !flexible {
		return
	}
	if s.Diverging == nil {
		e.b = append(e.b, 0)
		return
	}
	const divergingBytes = 4 + 8 + 1
	e.b = append(e.b, 1, 0, divergingBytes) // one tag: number 0 and its size
	e.b = appendI32(e.b, int32(s.Diverging.Epoch))
	e.b = appendI64(e.b, int64(s.Diverging.End))
	e.b = append(e.b, 0)
}

func (e *fetchEncoder) vectors() [][]byte {
	vecs := make([][]byte, 0, 2*len(e.records)+1)
	from := 0
	for i, cut := range e.cuts {
		if cut > from {
			vecs = append(vecs, e.b[from:cut])
			from = cut
		}
		if len(e.records[i]) > 0 {
			vecs = append(vecs, e.records[i])
		}
	}
	if from < len(e.b) {
		vecs = append(vecs, e.b[from:])
	}
	return vecs
}
