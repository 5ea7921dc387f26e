package gateway

import (
	"bytes"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A delivery is how a client wants its records; it is read-only.
type delivery struct {
	raw           bool // whole Kafka batches
	text          bool
	keysOnly      bool
	readCommitted bool
	frameBytes    int
	linger        time.Duration
	filter        *braidv1.Filter
}

// newDelivery checks what a client asked for.
func newDelivery(cfg *Config, in *braidv1.Delivery) (*delivery, error) {
	d := &delivery{
		text: in.GetTextView(), keysOnly: in.GetKeysAndHeadersOnly(), readCommitted: !in.GetReadUncommitted(),
		frameBytes: int(in.GetMaxFrameBytes()), linger: time.Duration(in.GetLingerMs()) * time.Millisecond, filter: in.GetFilter(),
	}
	switch in.GetFormat() {
	case braidv1.RecordFormat_RECORD_FORMAT_UNSPECIFIED, braidv1.RecordFormat_RECORD_FORMAT_RECORDS:
	case braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2:
		d.raw = true
		if d.filter != nil || d.text || d.keysOnly {
			return nil, invalid("delivery: filter, text_view and keys_and_headers_only need the format RECORDS; KAFKA_V2 batches pass unread")
		}
	default:
		return nil, invalid("delivery.format: %d is not known", in.GetFormat())
	}
	if d.frameBytes == 0 {
		d.frameBytes = cfg.DeliveryFrameBytesDefault
	}
	switch {
	case d.frameBytes < 0 || d.frameBytes > cfg.DeliveryFrameBytesMax:
		return nil, invalid("delivery.max_frame_bytes: is %d, want 1 to %d, or 0 for %d", d.frameBytes, cfg.DeliveryFrameBytesMax, cfg.DeliveryFrameBytesDefault)
	case d.linger < 0 || d.linger > cfg.LingerMax:
		return nil, invalid("delivery.linger_ms: is %d, want 0 to %d", in.GetLingerMs(), cfg.LingerMax.Milliseconds())
	}
	for i, m := range d.filter.GetAll() {
		if m.GetKey() == "" || m.GetTest() == nil {
			return nil, invalid("delivery.filter.all[%d]: key and one of equals, prefix and present must be set", i)
		}
	}
	return d, nil
}

// match reports whether a record passes the filter. Of headers with the same key
// one that passes is enough.
func (d *delivery) match(r *recordbatch.Record) bool {
	if d.filter == nil {
		return true
	}
	if !bytes.HasPrefix(r.Key, d.filter.GetKeyPrefix()) {
		return false
	}
	for _, m := range d.filter.GetAll() {
		if !matchHeader(m, r.Headers) {
			return false
		}
	}
	return true
}

func matchHeader(m *braidv1.HeaderMatch, headers []recordbatch.RecordHeader) bool {
	if p, ok := m.GetTest().(*braidv1.HeaderMatch_Present); ok {
		has := false
		for i := range headers {
			has = has || headers[i].Key == m.GetKey()
		}
		return has == p.Present
	}
	for i := range headers {
		if headers[i].Key != m.GetKey() {
			continue
		}
		switch t := m.GetTest().(type) {
		case *braidv1.HeaderMatch_Equals:
			if bytes.Equal(headers[i].Value, t.Equals) {
				return true
			}
		case *braidv1.HeaderMatch_Prefix:
			if bytes.HasPrefix(headers[i].Value, t.Prefix) {
				return true
			}
		}
	}
	return false
}

// A window is how much more may be delivered. It is checked before each record,
// so what goes out may exceed it by one record.
type window struct{ records, bytes int64 }

func (w *window) open() bool { return w.records > 0 && w.bytes > 0 }

// A cursor turns what a Fetch brought for one partition into frames. It copies
// what it delivers: the slice may be released between frames only if the cursor is
// not used any more.
type cursor struct {
	delivery *delivery
	reader   *recordbatch.Reader
	topic    string
	number   int32
	next     int64 // the position
	high     int64
	stop     int64 // exclusive; noStop = none
	stopTime int64 // exclusive; noStop = none
	stopped  bool  // a stop was reached

	chunks  [][]byte
	chunk   []byte
	inBatch bool
	aborted abortFilter
	out     *recordFrame       // in the making
	scratch recordbatch.Record // the next one
}

const noStop = int64(-1)

func newCursor(d *delivery, reader *recordbatch.Reader, s *router.Slice, next, stop, stopTime int64) *cursor {
	high := int64(s.HighWatermark)
	if d.readCommitted && s.LastStable >= 0 {
		high = int64(s.LastStable)
	}
	return &cursor{
		delivery: d, reader: reader, topic: string(s.Topic), number: int32(s.Partition), next: next, high: high,
		stop: stop, stopTime: stopTime, chunks: s.Records, aborted: newAbortFilter(d, s.Aborted),
	}
}

// frame delivers up to the window and the frame size. It returns nil when the
// slice is used up (or its stop reached) and the position has not moved since the last frame.
// An error is the partition's: its position stays before what could not be read.
// The frame is the caller's, who may release it.
func (c *cursor) frame(w *window) (*recordFrame, error) {
	start := c.next
	c.out = newRecordFrame()
	for w.open() && c.out.bytes < c.delivery.frameBytes && !c.stopped {
		if !c.inBatch {
			more, err := c.nextBatch(w)
			if err != nil || !more {
				return c.finish(start, err)
			}
			continue
		}
		if err := c.nextRecord(w); err != nil {
			return c.finish(start, err)
		}
	}
	return c.finish(start, nil)
}

// used reports whether the slice is used up or its stop reached.
func (c *cursor) used() bool {
	return c.stopped || !c.inBatch && len(c.chunk) == 0 && len(c.chunks) == 0
}

func (c *cursor) finish(start int64, err error) (*recordFrame, error) {
	if c.stop != noStop && c.next >= c.stop {
		c.stopped = true
	}
	f := c.out
	c.out = nil
	if c.next == start {
		f.release()
		return nil, err
	}
	m := &f.message
	m.Topic, m.Partition, m.FirstOffset, m.NextOffset, m.HighWatermark = c.topic, c.number, f.first, c.next, c.high
	m.Records = f.records
	if f.raw != nil {
		m.KafkaBatches = *f.raw
	}
	if f.first < 0 {
		m.FirstOffset = start
	}
	return f, err
}

// nextBatch goes on to the next batch; false if there is none.
func (c *cursor) nextBatch(w *window) (bool, error) {
	for len(c.chunk) == 0 {
		if len(c.chunks) == 0 {
			return false, nil
		}
		c.chunk, c.chunks = c.chunks[0], c.chunks[1:]
	}
	batch, rest := recordbatch.Next(c.chunk)
	c.chunk = rest
	if batch == nil {
		c.chunk = nil // cut off by the size limit of the read
		return true, nil
	}
	h, ok := recordbatch.ParseHeader(batch)
	if !ok {
		return false, federation.Errorf(federation.Unsupported, "%s-%d: holds records of an old format (before Kafka 0.11) at offset %d", c.topic, c.number, c.next)
	}
	if h.LastOffset() < c.next {
		return true, nil
	}
	if h.Control() {
		if err := c.reader.Reset(batch); err != nil {
			return false, err
		}
	}
	switch skip := c.aborted.skips(&h, h.Control() && c.reader.Abort()); {
	case skip, h.Control():
		c.next = h.LastOffset() + 1
	case c.delivery.raw:
		c.rawBatch(w, batch, &h)
	default:
		if err := c.reader.Reset(batch); err != nil {
			return false, err
		}
		c.inBatch = true
	}
	return true, nil
}

func (c *cursor) rawBatch(w *window, batch []byte, h *recordbatch.Header) {
	if c.stopTime != noStop && h.FirstTimestamp >= c.stopTime {
		c.stopped = true
		return
	}
	if c.out.first < 0 {
		c.out.first = max(h.BaseOffset, c.next)
	}
	c.out.addRaw(batch, c.ahead(len(batch)))
	c.next = h.LastOffset() + 1
	w.records -= int64(h.Count)
	w.bytes -= int64(len(batch))
}

// ahead returns how many bytes a frame with n more will have, as far as this chunk tells.
func (c *cursor) ahead(n int) int {
	for rest := c.chunk; c.out.bytes+n < c.delivery.frameBytes; {
		var batch []byte
		if batch, rest = recordbatch.Next(rest); batch == nil {
			break
		}
		n += len(batch)
	}
	return n
}

func (c *cursor) nextRecord(w *window) error {
	rec := &c.scratch
	ok, err := c.reader.Next(rec)
	if err != nil {
		c.inBatch = false
		return err
	}
	if !ok {
		c.inBatch = false
		c.next = max(c.next, c.reader.Header().LastOffset()+1)
		return nil
	}
	if rec.Offset < c.next {
		return nil
	}
	if c.stop != noStop && rec.Offset >= c.stop || c.stopTime != noStop && rec.TimestampMs >= c.stopTime {
		c.stopped, c.inBatch = true, false
		return nil
	}
	c.next = rec.Offset + 1
	if !c.delivery.match(rec) {
		return nil
	}
	n := c.out.add(rec, c.delivery)
	w.records--
	w.bytes -= int64(n)
	return nil
}

func text(b []byte) string {
	if !utf8.Valid(b) {
		return ""
	}
	return string(b)
}

// An abortFilter leaves out the records of aborted transactions, as Kafka's
// consumer does (CompletedFetch.consumeAbortedTransactionsUpTo).
type abortFilter struct {
	pending []router.AbortedTxn // ascending
	active  map[int64]bool      // producers inside an aborted transaction
}

func newAbortFilter(d *delivery, aborted []router.AbortedTxn) abortFilter {
	if !d.readCommitted || len(aborted) == 0 {
		return abortFilter{}
	}
	f := abortFilter{pending: append([]router.AbortedTxn(nil), aborted...), active: make(map[int64]bool)}
	sort.Slice(f.pending, func(i, j int) bool { return f.pending[i].FirstOffset < f.pending[j].FirstOffset })
	return f
}

// skips reports whether a batch belongs to an aborted transaction; it must see
// every batch once, in order. abort says that it is the marker of an abort.
func (f *abortFilter) skips(h *recordbatch.Header, abort bool) bool {
	if f.active == nil {
		return false
	}
	for len(f.pending) > 0 && int64(f.pending[0].FirstOffset) <= h.LastOffset() {
		f.active[f.pending[0].ProducerID] = true
		f.pending = f.pending[1:]
	}
	if abort {
		delete(f.active, h.ProducerID)
		return false
	}
	return !h.Control() && h.Transactional() && f.active[h.ProducerID]
}
