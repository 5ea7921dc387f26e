package gateway

import (
	"strings"
	"sync"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/recordbatch"
)

// A recordFrame is a frame of records or raw batches with the memory that it lies
// in. All of it comes from pools: small frames take little, since many may wait
// in a queue, and idle streams hold none.
//
// Whoever has sent the frame may release it. Connect's Send has encoded the message
// when it returns, also with an error (envelopeWriter.Marshal), and keeps
// nothing of it; the interceptors before it look only at what is received.
type recordFrame struct {
	message braidv1.RecordBatch
	first   int64 // offset of the first record; -1 = none yet
	bytes   int   // of payload

	few     [fewRecords]braidv1.Record
	fewList [fewRecords]*braidv1.Record
	records []*braidv1.Record
	list    *[]*braidv1.Record // of records, if they are not few
	room    []braidv1.Record   // of few or the last block
	blocks  []*recordBlock
	slabs   []*[]byte // of keys and values; the last has room
	raw     *[]byte

	counted int64 // in of
	of      *memory.Budget
}

// A frame is there twice while it is sent: as it was copied, and encoded. Up to
// frameFreeBytes are not counted, as other small answers are not.
const (
	frameCopies    = 2
	frameFreeBytes = 64 << 10
)

// count counts so many copies of a frame that is about to be sent until it is released,
// which must follow. It waits for nothing: the records that it was copied from are held
// already, and reads from brokers wait for longer instead. It is safe on nil.
func (f *recordFrame) count(answers *memory.Budget, copies int) {
	if f == nil || f.bytes <= frameFreeBytes {
		return
	}
	n := int64(f.bytes) * int64(copies)
	answers.Charge(n)
	f.counted, f.of = n, answers
}

type recordBlock [64]braidv1.Record

const (
	fewRecords = 4
	slabMin    = 1 << 10 // of a frame's first slab; the next are twice as large
	slabMax    = 32 << 10
	// recordListMax keeps the list of a rare frame of very many records from staying.
	recordListMax  = 16 << 10
	pooledBytesMax = 2 << 20
)

var (
	recordFrames = sync.Pool{New: func() any { return new(recordFrame) }}
	recordBlocks = sync.Pool{New: func() any { return new(recordBlock) }}
	recordLists  = sync.Pool{New: func() any { return new([]*braidv1.Record) }}
)

func newRecordFrame() *recordFrame {
	f := recordFrames.Get().(*recordFrame)
	f.first, f.bytes = -1, 0
	f.room, f.records = f.few[:], f.fewList[:0]
	return f
}

// release gives the frame's memory back; nothing may refer to it any more. It is
// safe on nil.
func (f *recordFrame) release() {
	if f == nil {
		return
	}
	f.of.Uncharge(f.counted)
	f.counted, f.of = 0, nil
	for _, r := range f.records {
		r.Key, r.Value, r.Headers, r.KeyText, r.ValueText = nil, nil, nil, "", ""
		r.Offset, r.TimestampMs = 0, 0
	}
	clear(f.records)
	if f.list != nil {
		if *f.list = f.records[:0]; cap(*f.list) <= recordListMax {
			recordLists.Put(f.list)
		}
	}
	for i, b := range f.blocks {
		recordBlocks.Put(b)
		f.blocks[i] = nil
	}
	for i, b := range f.slabs {
		putBytes(b)
		f.slabs[i] = nil
	}
	if f.raw != nil {
		putBytes(f.raw)
	}
	f.records, f.list, f.room, f.raw = nil, nil, nil, nil
	f.blocks, f.slabs = f.blocks[:0], f.slabs[:0]
	m := &f.message
	m.Topic, m.Records, m.KafkaBatches = "", nil, nil
	m.Partition, m.FirstOffset, m.NextOffset, m.HighWatermark, m.AssignmentEpoch = 0, 0, 0, 0, 0
	recordFrames.Put(f)
}

// add copies a record into the frame and returns its payload size.
func (f *recordFrame) add(r *recordbatch.Record, d *delivery) int {
	out := f.record()
	out.Offset, out.TimestampMs, out.Key = r.Offset, r.TimestampMs, f.copy(r.Key)
	n := len(r.Key)
	if !d.keysOnly {
		out.Value = f.copy(r.Value)
		n += len(r.Value)
	}
	for i := range r.Headers {
		h := &r.Headers[i]
		out.Headers = append(out.Headers, &braidv1.Header{Key: strings.ToValidUTF8(strings.Clone(h.Key), "\uFFFD"), Value: f.copy(h.Value)})
		n += len(h.Key) + len(h.Value)
	}
	if d.text {
		out.KeyText, out.ValueText = text(out.GetKey()), text(out.GetValue())
	}
	if f.first < 0 {
		f.first = r.Offset
	}
	f.bytes += n
	return n
}

// record returns the frame's next record, which is empty.
func (f *recordFrame) record() *braidv1.Record {
	if len(f.room) == 0 {
		if f.list == nil {
			f.list = recordLists.Get().(*[]*braidv1.Record)
			f.records = append((*f.list)[:0], f.records...)
			clear(f.fewList[:])
		}
		block := recordBlocks.Get().(*recordBlock)
		f.blocks, f.room = append(f.blocks, block), block[:]
	}
	r := &f.room[0]
	f.room = f.room[1:]
	f.records = append(f.records, r)
	return r
}

// copy keeps null and empty apart.
func (f *recordFrame) copy(v []byte) []byte {
	if len(v) == 0 {
		if v == nil {
			return nil
		}
		return []byte{}
	}
	size := slabMin
	if n := len(f.slabs); n > 0 {
		last := f.slabs[n-1]
		if len(v) <= cap(*last)-len(*last) {
			return appendTo(last, v)
		}
		size = min(2*cap(*last), slabMax)
	}
	slab := getBytes(max(size, len(v)))
	f.slabs = append(f.slabs, slab)
	return appendTo(slab, v)
}

func appendTo(slab *[]byte, v []byte) []byte {
	at := len(*slab)
	*slab = append(*slab, v...)
	return (*slab)[at:len(*slab):len(*slab)]
}

// addRaw copies a raw batch into the frame. hint is how much is to come, with it.
func (f *recordFrame) addRaw(batch []byte, hint int) {
	switch {
	case f.raw == nil:
		f.raw = getBytes(max(hint, len(batch)))
	case cap(*f.raw)-len(*f.raw) < len(batch):
		larger := getBytes(len(*f.raw) + max(len(*f.raw), hint, len(batch)))
		*larger = append(*larger, *f.raw...)
		putBytes(f.raw)
		f.raw = larger
	}
	*f.raw = append(*f.raw, batch...)
	f.bytes += len(batch)
}

// getBytes returns an empty slice with room for n bytes. A rare large one does not stay.
func getBytes(n int) *[]byte {
	if n > pooledBytesMax {
		b := make([]byte, 0, n)
		return &b
	}
	return memory.GetSlab(n)
}

func putBytes(b *[]byte) {
	if cap(*b) <= pooledBytesMax {
		memory.PutSlab(b)
	}
}
