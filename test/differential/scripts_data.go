package differential

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// written is the time of all records: the same on both sides, and not long ago, or brokers
// would delete them for their age while a script reads them.
var written = time.Now().Add(-time.Hour).UnixMilli()

// A batch is what a record batch is made of.
type batch struct {
	producer   int64
	epoch      int16
	sequence   int32
	attributes int16
	time       int64
	values     []string
}

func plain(values ...string) batch {
	return batch{producer: -1, epoch: -1, sequence: -1, time: written, values: values}
}

// encode makes a batch of magic 2.
func (b batch) encode() []byte {
	var records []byte
	for i, v := range b.values {
		r := kmsg.Record{OffsetDelta: int32(i), Key: []byte("k"), Value: []byte(v)}
		body := r.AppendTo(nil)[1:] // without the length, which is 0 in one byte here
		records = append(binary.AppendVarint(records, int64(len(body))), body...)
	}
	encoded := (&kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: b.attributes, LastOffsetDelta: int32(len(b.values) - 1), FirstTimestamp: b.time, MaxTimestamp: b.time,
		ProducerID: b.producer, ProducerEpoch: b.epoch, FirstSequence: b.sequence, NumRecords: int32(len(b.values)), Records: records,
	}).AppendTo(nil)
	binary.BigEndian.PutUint32(encoded[8:], uint32(len(encoded)-12))
	return sign(encoded)
}

func sign(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// changed is a batch with bytes put in at a place, with its CRC.
func changed(at int, to ...byte) []byte {
	b := plain("a", "b").encode()
	copy(b[at:], to)
	return sign(b)
}

func produce(name string, id [16]byte, partition int32, acks int16, records []byte) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.Acks, r.TimeoutMillis = acks, 10_000
	r.Topics = []kmsg.ProduceRequestTopic{{Topic: name, TopicID: id, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: partition, Records: records}}}}
	return r
}

func recordsScript(s *Side) {
	s.create("written", 2)
	id := s.topicID("written")
	to := func(what string, acks int16, records func() []byte) {
		s.each(what, 0, func(int16) kmsg.Request { return produce("written", id, 0, acks, records()) })
	}
	to("one batch", -1, plain("a", "b", "c").encode)
	s.moved("written")
	to("acks of the leader", 1, plain("a").encode)
	to("acks that are none", 2, plain("a").encode)
	s.each("an unknown topic", 0, func(int16) kmsg.Request { return produce(never, [16]byte{8}, 0, -1, plain("a").encode()) })
	s.each("an unknown partition", 0, func(int16) kmsg.Request { return produce("written", id, 7, -1, plain("a").encode()) })
	s.ask("a transaction without an id", 12, produce("written", id, 0, -1, changed(21, 0, 0x10)))
	s.ask(hangs, 9, produce("written", id, 0, -1, nil))
	for _, c := range []struct {
		what    string
		records []byte
	}{
		{"a wrong CRC", func() []byte { b := plain("a").encode(); b[len(b)-1]++; return b }()},
		{"no records", []byte{}},
		{"two batches", append(plain("a").encode(), plain("b").encode()...)},
		{"a control batch", changed(21, 0, 0x20)},
		{"a count that is too big", changed(57, 0, 0, 0, 9)},
		{"a count of nothing", changed(57, 0, 0, 0, 0)},
		{"a wrong last offset", changed(23, 0, 0, 0, 9)},
		{"an offset that is not the first", changed(7, 5)},
		{"magic 1", changed(16, 1)},
		{"an unknown codec", changed(21, 0, 7)},
		{"cut off", plain("a", "b").encode()[:70]},
		{"a header alone", plain("a").encode()[:30]},
	} {
		to(c.what, -1, func() []byte { return c.records })
	}
	s.each("a transactional id", 3, func(int16) kmsg.Request {
		r := produce("written", id, 0, -1, plain("a").encode())
		r.TransactionID = new("t")
		return r
	})
	s.moved("written")
	s.idempotence(id)
	s.each("nothing", 3, func(int16) kmsg.Request {
		r := kmsg.NewPtrProduceRequest()
		r.Acks, r.TimeoutMillis = -1, 1000
		return r
	})
	s.create("small", 1, "max.message.bytes", "2000")
	small := s.topicID("small")
	s.each("a batch that is too large", 3, func(int16) kmsg.Request {
		return produce("small", small, 0, -1, plain(string(make([]byte, 3000))).encode())
	})
	s.create("compacted", 1, "cleanup.policy", "compact")
	compacted := s.topicID("compacted")
	s.each("a record without a key", 3, func(int16) kmsg.Request {
		records := plain("a").encode()
		keyless := append([]byte(nil), records[:61]...)
		body := (&kmsg.Record{Value: []byte("a")}).AppendTo(nil)[1:]
		return produce("compacted", compacted, 0, -1, func() []byte {
			b := append(binary.AppendVarint(keyless, int64(len(body))), body...)
			binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
			return sign(b)
		}())
	})
}

func newProducer(id int64, epoch int16) *kmsg.InitProducerIDRequest {
	return &kmsg.InitProducerIDRequest{TransactionTimeoutMillis: 60_000, ProducerID: id, ProducerEpoch: epoch}
}

func (s *Side) idempotence(id [16]byte) {
	s.until("producer ids are there", 4, newProducer(-1, -1), func(response kmsg.Response) bool {
		return response.(*kmsg.InitProducerIDResponse).ErrorCode == 0
	})
	s.each("a producer id", 0, func(int16) kmsg.Request {
		return newProducer(-1, -1)
	})
	producer := must[*kmsg.InitProducerIDResponse](s, "the producer id", 4, newProducer(-1, -1))
	s.each("the next epoch", 3, func(int16) kmsg.Request {
		return newProducer(producer.ProducerID, producer.ProducerEpoch)
	})
	for _, c := range []struct {
		what     string
		epoch    int16
		sequence int32
		moved    bool // before
	}{
		{what: "the first batch"},
		{what: "the same again"},
		{what: "the same again, elsewhere", moved: true},
		{what: "the next", sequence: 2},
		{what: "a gap", sequence: 9},
		{what: "an old one", sequence: 1},
		{what: "a gap, elsewhere", sequence: 11, moved: true},
		{what: "the next, elsewhere", sequence: 4},
		{what: "the one before, once more", sequence: 2},
		{what: "another epoch", epoch: 1, moved: true},
		{what: "the old epoch", sequence: 6},
		{what: "the old epoch, elsewhere", sequence: 6, moved: true},
		{what: "another epoch in the middle", epoch: 2, sequence: 7},
	} {
		if c.moved {
			s.moved("written")
		}
		b := batch{producer: producer.ProducerID, epoch: c.epoch, sequence: c.sequence, time: written, values: []string{"a", "b"}}
		s.ask("idempotent: "+c.what, 9, produce("written", id, 1, -1, b.encode()))
	}
	r := kmsg.NewPtrDescribeProducersRequest()
	r.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "written", Partitions: []int32{1}}, {Topic: never, Partitions: []int32{0}}}
	s.ask("producers", 0, r)
}

// fetch asks for one partition.
func fetch(name string, id [16]byte, partition int32, offset int64) *kmsg.FetchRequest {
	r := kmsg.NewPtrFetchRequest()
	r.ReplicaID, r.MaxBytes, r.SessionEpoch = -1, 50<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = partition, offset, 1<<20, -1
	r.Topics = []kmsg.FetchRequestTopic{{Topic: name, TopicID: id, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return r
}

func fetchScript(s *Side) {
	s.create("read", 2)
	id := s.topicID("read")
	for range 3 {
		s.ask("write", 12, produce("read", id, 0, -1, plain("a", "b", "c").encode()))
		s.moved("read")
	}
	from := func(what string, offset int64, change ...func(*kmsg.FetchRequest)) {
		s.each(what, 0, func(int16) kmsg.Request {
			r := fetch("read", id, 0, offset)
			for _, f := range change {
				f(r)
			}
			return r
		})
	}
	from("from the start", 0)
	from("in the middle of a batch", 4)
	from("at the end", 9)
	from("behind the end", 10)
	from("before the start", -1)
	from("read committed", 0, func(r *kmsg.FetchRequest) { r.IsolationLevel = 1 })
	from("few bytes of a partition", 0, func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].PartitionMaxBytes = 1 })
	from("few bytes", 3, func(r *kmsg.FetchRequest) { r.MaxBytes = 1 })
	from("no topics", 0, func(r *kmsg.FetchRequest) { r.Topics = nil })
	from("a leader epoch of the future", 0, func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].CurrentLeaderEpoch = 1_000_000 })
	from("an unknown session", 0, func(r *kmsg.FetchRequest) { r.SessionID, r.SessionEpoch = 77, 5 })
	from("a wait that ends", 9, func(r *kmsg.FetchRequest) { r.MaxWaitMillis, r.MinBytes = 30, 1 })
	s.each("an empty partition", 0, func(int16) kmsg.Request { return fetch("read", id, 1, 0) })
	s.each("an unknown partition", 0, func(int16) kmsg.Request { return fetch("read", id, 9, 0) })
	s.each("an unknown topic", 0, func(int16) kmsg.Request { return fetch(never, [16]byte{7}, 0, 0) })
	for _, v := range []int16{7, 12, 13, 18} {
		first := fetch("read", id, 0, 0)
		first.SessionEpoch = 0
		session := must[*kmsg.FetchResponse](s, "a session begins", v, first).SessionID
		next := fetch("read", id, 0, 9)
		next.SessionID, next.SessionEpoch = session, 1
		s.ask("a session goes on", v, next)
		s.moved("read")
		nothing := fetch("read", id, 0, 9)
		nothing.Topics, nothing.SessionID, nothing.SessionEpoch = nil, session, 2
		s.ask("a session has nothing new", v, nothing)
		wrong := fetch("read", id, 0, 9)
		wrong.SessionID, wrong.SessionEpoch = session, 7
		s.ask("a session in a wrong epoch", v, wrong)
		end := fetch("read", id, 0, 0)
		end.SessionID = session
		s.ask("a session ends", v, end)
	}
}

func list(name string, partition int32, time int64, epoch int32) *kmsg.ListOffsetsRequest {
	r := kmsg.NewPtrListOffsetsRequest()
	r.ReplicaID, r.TimeoutMillis = -1, 10_000
	r.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: name, Partitions: []kmsg.ListOffsetsRequestTopicPartition{{Partition: partition, Timestamp: time, CurrentLeaderEpoch: epoch}}}}
	return r
}

func positionsScript(s *Side) {
	s.create("places", 2)
	id := s.topicID("places")
	for i := range int64(4) {
		b := plain("a", "b")
		b.time += i * 1000
		s.ask("write", 12, produce("places", id, 0, -1, b.encode()))
		if i%2 == 0 {
			s.moved("places")
		}
	}
	for _, c := range []struct {
		what string
		time int64
	}{
		{"the last", -1},
		{"the first", -2},
		{"of the largest time", -3},
		{"the first that is local", -4},
		{"the last that is tiered", -5},
		{"the first that is not uploaded", -6},
		{"of a time that is none", -9},
		{"of the first time", written},
		{"of a time between", written + 1500},
		{"of the time 0", 0},
		{"of a time to come", written + 1_000_000},
	} {
		s.each("the offset "+c.what, 0, func(int16) kmsg.Request { return list("places", 0, c.time, -1) })
	}
	s.each("read committed", 2, func(int16) kmsg.Request { r := list("places", 0, -1, -1); r.IsolationLevel = 1; return r })
	s.each("of an empty partition", 0, func(int16) kmsg.Request { return list("places", 1, -3, -1) })
	s.each("of an unknown partition", 0, func(int16) kmsg.Request { return list("places", 5, -1, -1) })
	s.each("of an unknown topic", 0, func(int16) kmsg.Request { return list(never, 0, -1, -1) })
	s.each("in an epoch of the future", 4, func(int16) kmsg.Request { return list("places", 0, -1, 1_000_000) })
	s.each("epochs", 2, func(int16) kmsg.Request {
		r := kmsg.NewPtrOffsetForLeaderEpochRequest()
		r.ReplicaID = -1
		at := func(partition, current, epoch int32) kmsg.OffsetForLeaderEpochRequestTopicPartition {
			return kmsg.OffsetForLeaderEpochRequestTopicPartition{Partition: partition, CurrentLeaderEpoch: current, LeaderEpoch: epoch}
		}
		r.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{
			{Topic: "places", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{at(0, -1, 1_000_000), at(1, 1_000_000, 0), at(9, -1, 0)}},
			{Topic: never, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{at(0, -1, 0)}},
		}
		return r
	})
	remove := func(name string, partition int32, offset int64) *kmsg.DeleteRecordsRequest {
		r := kmsg.NewPtrDeleteRecordsRequest()
		r.TimeoutMillis = 10_000
		r.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: name, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: offset}}}}
		return r
	}
	s.each("delete records", 0, func(v int16) kmsg.Request { return remove("places", 0, 2+int64(v)) })
	s.moved("places")
	s.each("delete records behind the end", 0, func(int16) kmsg.Request { return remove("places", 0, 99) })
	s.each("delete records before the start", 0, func(int16) kmsg.Request { return remove("places", 0, 1) })
	s.each("delete records of an unknown partition", 0, func(int16) kmsg.Request { return remove("places", 9, 1) })
	s.each("delete records of an unknown topic", 0, func(int16) kmsg.Request { return remove(never, 0, 1) })
	s.each("delete records at an offset that is none", 0, func(int16) kmsg.Request { return remove("places", 0, -2) })
	s.each("the first now", 0, func(int16) kmsg.Request { return list("places", 0, -2, -1) })
	s.each("read what was deleted", 0, func(int16) kmsg.Request { return fetch("places", id, 0, 0) })
	s.ask("delete all records", 2, remove("places", 0, -1))
	s.ask("the first at last", 11, list("places", 0, -2, -1))
}
