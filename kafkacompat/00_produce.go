package kafkacompat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/recordbatch"
)

// Produce: v3-v13, advertised from v0
//
// The request is parsed by hand: the batches stay where they came in and go to
// the router as they are, the frame's buffer is free again when all are decided.
//
// Version notes:
// * v0-v2: message sets; refused per partition with UNSUPPORTED_VERSION. They are
//   advertised because older librdkafka turns features off otherwise (KAFKA-18659)
// * v3: magic 2, transactional id
// * v5: log start offset
// * v8: record errors, error message (KIP-467)
// * v9: flexible
// * v10: current leader and node endpoints (KIP-951); see leaderHint
// * v13: topic ids (KIP-516)

// maxMessageBytesDefault is Kafka's default of max.message.bytes (ServerLogConfigs).
const maxMessageBytesDefault = 1048588

// produced is the outcome for one partition of a Produce request.
type produced struct {
	partition int32
	records   []byte
	append    int // index in the appends; -1 = refused here
	router.Appended
	code int16
	hint *leaderHint
}

// producedTopic is a topic of a Produce request, in the request's order.
type producedTopic struct {
	topic      string
	id         federation.TopicID
	found      *federation.Topic
	partitions []produced
}

// produce parses a request, checks its batches and submits them. An error closes
// the connection.
func (c *conn) produce(ctx context.Context, sl *slot) error {
	req := &sl.req
	began := req.workBegins()
	p, err := c.parseProduce(req)
	if err != nil {
		return fmt.Errorf("request Produce version %d: %w", req.version, err)
	}
	sl.ready = make(chan response, 1)
	appends := c.checkProduce(ctx, req, p)
	req.worked(began)
	c.throttleProduce(ctx, req)
	if len(appends) == 0 {
		c.answerProduce(sl, p)
		return nil
	}
	timeout := min(max(time.Duration(p.timeoutMs)*time.Millisecond, time.Millisecond), c.s.cfg.ProduceTimeoutMax)
	err = c.route().Produce(ctx, router.Acks(p.acks), timeout, appends, func(done []router.Appended) {
		p.decided(req, done)
		c.answerProduce(sl, p)
	})
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		refused := make([]router.Appended, len(appends))
		for i := range refused {
			refused[i] = router.Appended{BaseOffset: -1, LogAppendTimeMs: -1, LogStart: -1, Err: err}
		}
		p.decided(req, refused)
		c.answerProduce(sl, p)
	}
	return nil
}

// answerProduce hands the answer to the writer; nobody needs the batches any more.
func (c *conn) answerProduce(sl *slot, p *produceRequest) {
	c.hintProduced(&sl.req, p)
	c.answerable.Add(1)
	sl.ready <- p.response(&sl.req)
	sl.req.frame.release()
}

// produceRequest is a parsed Produce request; records point into its frame.
type produceRequest struct {
	transactional bool
	acks          int16
	timeoutMs     int32
	topics        []producedTopic
	endpoints     []*federation.Gateway // that hints name
	throttle      int32                 // ms
}

var errTooManyPartitions = errors.New("too many partitions in one request")

func (c *conn) parseProduce(req *request) (*produceRequest, error) {
	rd := reader{b: req.body}
	flexible := req.version >= 9
	m := c.s.mapOrNil()
	p := new(produceRequest)
	if req.version >= 3 {
		_, null := rd.str(flexible)
		p.transactional = !null
	}
	p.acks = rd.i16()
	p.timeoutMs = rd.i32()
	left := c.s.cfg.PartitionsPerRequestMax
	topics := rd.array(flexible, 5)
	for range topics {
		if left--; left < 0 {
			return nil, errTooManyPartitions
		}
		var t producedTopic
		t.readName(&rd, req.version, m)
		n := rd.array(flexible, 5)
		if left -= n; left < 0 {
			return nil, errTooManyPartitions
		}
		t.partitions = make([]produced, n)
		for i := range t.partitions {
			t.partitions[i] = produced{partition: rd.i32(), records: rd.bytes(flexible), append: -1}
			if flexible {
				rd.tags()
			}
		}
		if flexible {
			rd.tags()
		}
		if rd.bad {
			break
		}
		p.topics = append(p.topics, t)
	}
	if flexible {
		rd.tags()
	}
	switch {
	case rd.bad:
		return nil, errors.New("the request is cut off")
	case len(rd.b) > 0:
		return nil, fmt.Errorf("%d bytes follow the request", len(rd.b))
	}
	return p, nil
}

// readName reads a topic's name or id. The name is that of the map where it is
// known, so a request of a known topic allocates none.
func (t *producedTopic) readName(rd *reader, version int16, m *federation.Map) {
	if version >= 13 {
		t.id = rd.uuid()
		if m != nil {
			t.found = m.TopicByID(t.id)
		}
		if t.found != nil {
			t.topic = string(t.found.Name) // the response names the id
		}
		return
	}
	name, null := rd.str(version >= 9)
	rd.bad = rd.bad || null // as at a broker: only transactional ids can be null
	if m != nil {
		t.found = m.Topics[federation.TopicName(name)]
	}
	if t.found != nil {
		t.topic = string(t.found.Name)
	} else {
		t.topic = string(name)
	}
}

// checkProduce refuses what is wrong, and returns the rest for the router.
func (c *conn) checkProduce(ctx context.Context, req *request, p *produceRequest) []router.Append {
	n := 0
	for i := range p.topics {
		n += len(p.topics[i].partitions)
	}
	appends := make([]router.Append, 0, n)
	m := c.s.mapOrNil()
	loaded := m != nil
	if loaded {
		req.may = c.access(ctx, req.api.name, m)
	}
	for i := range p.topics {
		t := &p.topics[i]
		// A topic that is asked for by an id that nobody has is not known, as at a broker.
		denied := loaded && (t.found != nil || req.version < 13) && !req.may.May(ctx, acl.Write, acl.Topic, t.topic)
		for j := range t.partitions {
			part := &t.partitions[j]
			part.Appended = router.Appended{BaseOffset: -1, LogAppendTimeMs: -1, LogStart: -1}
			if part.code = c.checkBatch(req, p, t, part, loaded, denied); part.code != 0 {
				continue
			}
			part.append = len(appends)
			appends = append(appends, router.Append{
				TopicPartition: federation.TopicPartition{Topic: t.found.Name, Partition: federation.LogicalPartition(part.partition)},
				Batch:          part.records,
				AwayWait:       &c.away,
			})
		}
	}
	return appends
}

// checkBatch checks what can be refused without the router; it returns a code.
func (c *conn) checkBatch(req *request, p *produceRequest, t *producedTopic, part *produced, loaded, denied bool) int16 {
	switch {
	case req.version < 3:
		return req.refuse(kerr.UnsupportedVersion)
	case p.acks < -1 || p.acks > 1:
		return req.refuse(kerr.InvalidRequiredAcks)
	case p.transactional:
		part.Err = errNoTransactions
		return req.refuse(kerr.TransactionalIDAuthorizationFailed)
	case !loaded:
		return req.refuse(kerr.LeaderNotAvailable)
	case denied:
		return req.refuse(kerr.TopicAuthorizationFailed)
	case t.found == nil && req.version >= 13:
		return req.refuse(kerr.UnknownTopicID)
	case t.found == nil, part.partition < 0, int(part.partition) >= len(t.found.Partitions):
		return req.refuse(kerr.UnknownTopicOrPartition)
	}
	if err := recordbatch.Check(part.records, maxMessageBytes(t.found)); err != nil {
		part.Err = err
		return req.failProduce(err)
	}
	if h, _ := recordbatch.ParseHeader(part.records); h.Transactional() {
		part.Err = errNoTransactions
		return req.refuse(kerr.TransactionalIDAuthorizationFailed)
	}
	return 0
}

func maxMessageBytes(t *federation.Topic) int {
	v, ok := t.Config["max.message.bytes"]
	if !ok {
		return maxMessageBytesDefault // for each batch of each request: no error to make
	}
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return n
	}
	return maxMessageBytesDefault
}

// decided takes the router's answers.
func (p *produceRequest) decided(req *request, done []router.Appended) {
	for i := range p.topics {
		for j := range p.topics[i].partitions {
			part := &p.topics[i].partitions[j]
			part.records = nil
			if part.append < 0 || part.append >= len(done) {
				continue
			}
			part.Appended = done[part.append]
			switch {
			case part.Err != nil:
				part.code = req.failProduce(part.Err)
			case part.Duplicate && part.BaseOffset < 0:
				// In the log from long ago: all SDKs but kafkajs take this code as success.
				part.code = kerr.DuplicateSequenceNumber.Code
			}
		}
	}
}

// response encodes the answer. For acks=0 there is none; a failure closes the
// connection then, so that the client learns of it and asks for metadata.
func (p *produceRequest) response(req *request) response {
	if p.acks == 0 {
		return response{close: req.code != 0}
	}
	size := 64
	for i := range p.topics {
		size += 32 + len(p.topics[i].topic) + 40*len(p.topics[i].partitions)
	}
	b := appendResponseHead(make([]byte, 0, size), req, req.version >= 9)
	p.throttle = req.throttleMillis()
	b = p.appendTo(b, req.version)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return response{vecs: [][]byte{b}}
}

// appendTo encodes the topics by hand: kmsg compares a field of each partition by
// reflection.
func (p *produceRequest) appendTo(b []byte, version int16) []byte {
	flexible := version >= 9
	b = appendLength(b, len(p.topics), flexible, false)
	for i := range p.topics {
		t := &p.topics[i]
		if version >= 13 {
			b = append(b, t.id[:]...)
		} else {
			b = appendStr(b, t.topic, flexible)
		}
		b = appendLength(b, len(t.partitions), flexible, false)
		for j := range t.partitions {
			b = t.partitions[j].appendTo(b, version)
		}
		if flexible {
			b = append(b, 0)
		}
	}
	if version >= 1 {
		b = appendI32(b, p.throttle)
	}
	if flexible {
		b = appendEndpoints(b, p.endpoints)
	}
	return b
}

func (p *produced) appendTo(b []byte, version int16) []byte {
	flexible := version >= 9
	base, appended, start := int64(p.BaseOffset), p.LogAppendTimeMs, int64(p.LogStart)
	if p.code != 0 && p.code != kerr.DuplicateSequenceNumber.Code {
		base, appended, start = -1, -1, -1
	}
	b = appendI32(b, p.partition)
	b = appendI16(b, p.code)
	b = appendI64(b, base)
	if version >= 2 {
		b = appendI64(b, appended)
	}
	if version >= 5 {
		b = appendI64(b, start)
	}
	if version >= 8 {
		b = appendLength(b, len(p.RecordErrors), flexible, false)
		for _, e := range p.RecordErrors {
			b = appendI32(b, e.Index)
			b = appendNullable(b, e.Message, e.Message == "", flexible)
			if flexible {
				b = append(b, 0)
			}
		}
		if m := message(p.Err); m != nil {
			b = appendStr(b, *m, flexible)
		} else {
			b = appendNullable(b, "", true, flexible)
		}
	}
	switch {
	case p.hint != nil:
		b = p.hint.appendTag(append(b, 1), 0)
	case flexible:
		b = append(b, 0)
	}
	return b
}

func appendNullable(b []byte, s string, null, compact bool) []byte {
	if null {
		return appendLength(b, -1, compact, true)
	}
	return appendStr(b, s, compact)
}
