package kafkacompat

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Fetch: v4-v18
//
// One long poll over all partitions, whatever clusters they lie on. The response
// is encoded by hand: the record batches go to the socket from where the router
// has them.
//
// Requests and answers of a session (KIP-227) name what has changed; see fetchSession.
//
// Version notes:
// * v4: isolation level, last stable offset, aborted transactions
// * v5: log start offset
// * v7: sessions, top-level error
// * v9: current leader epoch (KIP-320)
// * v11: rack, preferred read replica (KIP-392); see zones.go
// * v12: flexible; last fetched epoch, diverging epoch (KIP-595)
// * v13: topic ids (KIP-516)
// * v15: replica state
// * v16: current leader and node endpoints (KIP-951); see leaderHint
// * v17, v18: replica fields

func (c *conn) fetch(ctx context.Context, req *request) response {
	began := req.workBegins()
	walked, err := req.api.check(req.version, req.body)
	if err != nil {
		return c.malformed(ctx, req, err)
	}
	if walked.elements > c.s.cfg.FetchPartitionsMax {
		return c.tooManyFetched(ctx, req, walked.elements)
	}
	room := int64(walked.elements)*fetchPartBytes + 2*int64(len(req.body))
	if room <= smallAnswerBytes {
		return c.fetchInRoom(ctx, req, walked, began)
	}
	budget := c.s.answers.fetches
	if err := budget.Acquire(ctx, room); err != nil { // the gateway drains, or the client is gone
		return response{close: true}
	}
	req.crowded = budget.Waiting() > 0 || budget.Used() > budget.Size()/2
	kept := false
	defer func() {
		if !kept {
			budget.Release(room)
		}
	}()
	resp := c.fetchInRoom(ctx, req, walked, began)
	records := resp.release
	resp.release = func() {
		if records != nil {
			records()
		}
		budget.Release(room)
	}
	kept = true
	return resp
}

// The bytes that a partition takes which a Fetch request names: while the request is
// worked on (as it is decoded, what the router is asked for and answers, and the answer),
// and in a session.
const (
	fetchPartBytes        = 640
	fetchSessionPartBytes = 330
)

// crowdedWait is how long a request that names many partitions waits for records while such
// requests have more than half of their room: the others wait for it. It is what clients
// ask for by default.
const crowdedWait = 500 * time.Millisecond

// fetchPartitionsLeast is what one request may name however little memory there is.
const fetchPartitionsLeast = 50_000

// tooManyFetched refuses a request that names more than FetchPartitionsMax.
func (c *conn) tooManyFetched(ctx context.Context, req *request, elements int) response {
	req.noRoom = federation.Errorf(federation.InvalidArgument, "the Fetch request names %d topics and partitions: this gateway takes %d in one", elements, c.s.cfg.FetchPartitionsMax)
	if req.version < sessionVersionMin { // which has no place for an error of all of it
		return c.refuseAnswer(ctx, req)
	}
	c.log.Warn("request refused", "api", req.api.name, "error", req.noRoom)
	return encodeFetch(req, req.refuse(kerr.InvalidRequest), 0, nil, nil)
}

// fetchInRoom works on a request that there is room for.
func (c *conn) fetchInRoom(ctx context.Context, req *request, walked walked, began time.Time) response {
	var kreq kmsg.FetchRequest
	kreq.SetVersion(req.version)
	if err := walked.decode(&kreq, req.body); err != nil {
		return c.malformed(ctx, req, err)
	}
	s, full, refused := c.fetchSessionOf(ctx, req, &kreq)
	if refused != nil {
		return encodeFetch(req, req.refuse(refused), 0, nil, nil)
	}
	req.worked(began)
	if resp, owes := c.throttledFetch(ctx, req, s, full); owes {
		return resp
	}
	fetched := c.fetchParts(ctx, req, &kreq, s)
	began = req.workBegins()
	c.hintFetched(req, s)
	resp := encodeFetch(req, 0, s.id, s.answered(full), fetched)
	req.worked(began)
	c.throttleFetch(ctx, req, &resp)
	for _, p := range s.parts {
		p.slice = nil // an idle session must not hold records
	}
	return resp
}

// fetchParts asks the router for the partitions of a session, and gives each its part
// of the answer. Fetched may be nil.
func (c *conn) fetchParts(ctx context.Context, req *request, kreq *kmsg.FetchRequest, s *fetchSession) *router.Fetched {
	m := c.s.mapOrNil()
	req.may = c.access(ctx, req.api.name, m)
	from := s.positions(ctx, req, m, fromReplica(kreq))
	if len(from) == 0 {
		return nil
	}
	if kreq.Rack != "" && m != nil {
		c.checkZone(req, m, kreq.Rack, s)
	}
	limit := c.fetchLimit(req, kreq)
	if req.code != 0 {
		limit.MaxWait = 0 // an error is told at once, as in ReplicaManager.fetchMessages
	}
	req.letGo()
	fetched, err := c.route().Fetch(ctx, from, limit)
	if err != nil {
		code := req.failFetch(err)
		if ctx.Err() != nil { // the gateway drains: the client finds another one
			code = kerr.NotLeaderForPartition.Code
		}
		s.fill(func(p *fetchPart) { p.code, p.near = code, nil })
		return nil
	}
	s.fill(func(p *fetchPart) {
		if p.query < len(fetched.Slices) {
			p.slice = &fetched.Slices[p.query]
			p.code = req.failFetch(p.slice.Err)
			if !p.slice.InRange {
				p.near = nil
				passHole(p.slice, from[p.query].Offset)
			}
		}
	})
	if kreq.Rack != "" {
		c.toldZones(ctx, s)
	}
	return fetched
}

// passHole has a client go on behind offsets that have no records, and nothing behind
// them yet: it would stay at its position, and wait for the end of the partition in vain.
func passHole(s *router.Slice, from federation.LogicalOffset) {
	if s.Err == nil && len(s.Records) == 0 && s.Next > from {
		s.Records = append(s.Records, recordbatch.Hole(s.Next, s.NextEpoch))
	}
}

func (c *conn) fetchLimit(req *request, kreq *kmsg.FetchRequest) router.FetchLimit {
	most := min(max(kreq.MaxBytes, 0), c.s.cfg.FetchBytesMax)
	most = int32(min(int64(most), req.limits.AtOnce(quota.Consume)))
	wait := c.s.cfg.FetchWaitMax
	if req.crowded {
		wait = min(wait, crowdedWait)
	}
	return router.FetchLimit{
		MinBytes:      min(max(kreq.MinBytes, 0), most), // as in KafkaApis.handleFetchRequest
		MaxBytes:      most,
		MaxWait:       min(max(time.Duration(kreq.MaxWaitMillis)*time.Millisecond, 0), wait),
		ReadCommitted: kreq.IsolationLevel == 1,
	}
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

	endpoints []*federation.Gateway // that hints name
}

// newFetchEncoder returns one with room for a response to parts, but for what few have.
func newFetchEncoder(parts []*fetchPart) fetchEncoder {
	const topicBytes, partBytes = 2 + 16 + 8, 56
	size, records := 64, 0
	for i, p := range parts {
		if size += partBytes; i == 0 || p.topic != parts[i-1].topic {
			size += len(p.topic.name) + topicBytes
		}
		if p.slice != nil {
			records += len(p.slice.Records)
		}
	}
	return fetchEncoder{b: make([]byte, 0, size), cuts: make([]int, 0, records), records: make([][]byte, 0, records)}
}

// encodeFetch encodes a response; parts of one topic that follow each other share its
// name. The bytes of fetched are not copied: they are released after they were written.
func encodeFetch(req *request, code int16, session int32, parts []*fetchPart, fetched *router.Fetched) response {
	v := req.version
	flexible := v >= 12
	e := newFetchEncoder(parts)
	e.b = appendResponseHead(e.b, req, flexible)
	e.b = appendI32(e.b, 0) // throttle
	if v >= sessionVersionMin {
		e.b = appendI16(e.b, code)
		e.b = appendI32(e.b, session)
	}
	topics := 0
	for rest := parts; len(rest) > 0; rest = rest[sameTopic(rest):] {
		topics++
	}
	e.b = appendLength(e.b, topics, flexible, false)
	for rest := parts; len(rest) > 0; {
		n := sameTopic(rest)
		e.topic(rest[:n], v)
		rest = rest[n:]
	}
	if flexible {
		e.b = appendEndpoints(e.b, e.endpoints)
	}
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4+e.size))
	resp := response{vecs: e.vectors()}
	if fetched != nil {
		resp.release = fetched.Release
	}
	return resp
}

// sameTopic returns how many parts are of the same topic as the first one.
func sameTopic(parts []*fetchPart) int {
	n := 1
	for n < len(parts) && parts[n].topic == parts[0].topic {
		n++
	}
	return n
}

func (e *fetchEncoder) topic(parts []*fetchPart, v int16) {
	flexible := v >= 12
	if v >= 13 {
		e.b = append(e.b, parts[0].topic.id[:]...)
	} else {
		e.b = appendStr(e.b, parts[0].topic.name, flexible)
	}
	e.b = appendLength(e.b, len(parts), flexible, false)
	for _, p := range parts {
		e.partition(p, v)
	}
	if flexible {
		e.b = append(e.b, 0)
	}
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
		preferred := int32(-1)
		if p.near != nil {
			preferred = int32(p.near.NodeID)
		}
		e.b = appendI32(e.b, preferred)
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
	tags := 0
	if s.Diverging != nil {
		tags++
	}
	if p.hint != nil {
		tags++
	}
	e.b = append(e.b, byte(tags))
	if s.Diverging != nil {
		const divergingBytes = 4 + 8 + 1
		e.b = append(e.b, 0, divergingBytes) // the tag and its size
		e.b = appendI32(e.b, int32(s.Diverging.Epoch))
		e.b = appendI64(e.b, int64(s.Diverging.End))
		e.b = append(e.b, 0)
	}
	if p.hint != nil {
		e.b = p.hint.appendTag(e.b, 1)
		e.endpoints = addEndpoint(e.endpoints, p.hint)
	}
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
