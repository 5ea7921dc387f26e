package suite

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawConn speaks the Kafka protocol on one connection, without the care of a client library.
type rawConn struct {
	t    *testing.T
	conn net.Conn
	corr int32
}

func dial(t *testing.T, address string) *rawConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, callTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(callTimeout)))
	return &rawConn{t: t, conn: conn}
}

// write sends bytes as they are.
func (c *rawConn) write(b []byte) {
	c.t.Helper()
	_, err := c.conn.Write(b)
	require.NoError(c.t, err)
}

// send sends a request in the version that is set in it.
func (c *rawConn) send(r kmsg.Request) {
	c.t.Helper()
	c.corr++
	c.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, r, c.corr))
}

// receive reads one response frame behind its correlation id.
func (c *rawConn) receive() []byte {
	c.t.Helper()
	size := make([]byte, 4)
	_, err := io.ReadFull(c.conn, size)
	require.NoError(c.t, err, "the answer's length")
	frame := make([]byte, binary.BigEndian.Uint32(size))
	_, err = io.ReadFull(c.conn, frame)
	require.NoError(c.t, err, "the answer")
	require.Equal(c.t, c.corr, int32(binary.BigEndian.Uint32(frame)), "correlation id")
	return frame[4:]
}

// call sends a request and decodes its answer in the same version.
func (c *rawConn) call(r kmsg.Request) kmsg.Response {
	c.t.Helper()
	c.send(r)
	body := c.receive()
	response := r.ResponseKind()
	response.SetVersion(r.GetVersion())
	// The header of ApiVersions has no tags, whatever the version.
	if response.IsFlexible() && response.Key() != int16(kmsg.ApiVersions) {
		require.Equal(c.t, byte(0), body[0], "tags of the answer's header")
		body = body[1:]
	}
	require.NoError(c.t, response.ReadFrom(body))
	return response
}

// requireClosed requires that the other side closes the connection without an answer.
func (c *rawConn) requireClosed(what string) {
	c.t.Helper()
	n, err := c.conn.Read(make([]byte, 1))
	require.Zero(c.t, n, "%s: an answer", what)
	require.Error(c.t, err, what)
	var timeout net.Error
	if ne, ok := err.(net.Error); ok { //nolint:errorlint // exactly what Read returns
		timeout = ne
	}
	require.False(c.t, timeout != nil && timeout.Timeout(), "%s: the connection stays open", what)
}

// A batchSpec says what a raw batch is like.
type batchSpec struct {
	producerID int64 // -1 = none
	epoch      int16
	sequence   int32
	attributes int16
	timestamp  int64
	values     []string
	keyless    bool
}

// plainBatch has no producer.
func plainBatch(values ...string) batchSpec {
	return batchSpec{producerID: -1, epoch: -1, sequence: -1, timestamp: time.Now().UnixMilli(), values: values}
}

// encode makes a record batch of magic 2.
func (s batchSpec) encode() []byte {
	var records []byte
	for i, v := range s.values {
		r := kmsg.Record{OffsetDelta: int32(i), Key: []byte("k"), Value: []byte(v)}
		if s.keyless {
			r.Key = nil
		}
		body := r.AppendTo(nil)[1:] // without the length, which is 0 in one byte here
		records = binary.AppendVarint(records, int64(len(body)))
		records = append(records, body...)
	}
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: s.attributes,
		LastOffsetDelta: int32(len(s.values) - 1), FirstTimestamp: s.timestamp, MaxTimestamp: s.timestamp,
		ProducerID: s.producerID, ProducerEpoch: s.epoch, FirstSequence: s.sequence,
		NumRecords: int32(len(s.values)), Records: records,
	}
	encoded := b.AppendTo(nil)
	binary.BigEndian.PutUint32(encoded[8:], uint32(len(encoded)-12))
	return sign(encoded)
}

// sign sets the CRC of a batch.
func sign(batch []byte) []byte {
	binary.BigEndian.PutUint32(batch[17:], crc32.Checksum(batch[21:], crc32.MakeTable(crc32.Castagnoli)))
	return batch
}

// produceRequest is one batch for one partition.
func produceRequest(version int16, topic string, partition int32, acks int16, batch []byte) *kmsg.ProduceRequest {
	r := kmsg.NewPtrProduceRequest()
	r.SetVersion(version)
	r.Acks, r.TimeoutMillis = acks, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, batch
	rt.Partitions = append(rt.Partitions, rp)
	r.Topics = append(r.Topics, rt)
	return r
}

// produce sends a batch and returns the answer of its partition.
func (c *rawConn) produce(topic string, partition int32, acks int16, batch []byte) kmsg.ProduceResponseTopicPartition {
	c.t.Helper()
	response := c.call(produceRequest(9, topic, partition, acks, batch)).(*kmsg.ProduceResponse)
	require.Len(c.t, response.Topics, 1)
	require.Len(c.t, response.Topics[0].Partitions, 1)
	return response.Topics[0].Partitions[0]
}

// fetch reads a partition once, without a wait.
func (c *rawConn) fetch(topic string, partition int32, offset int64, maxBytes int32) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	r := kmsg.NewPtrFetchRequest()
	r.SetVersion(11)
	r.MaxBytes, r.SessionEpoch = 50<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, offset, maxBytes
	rt.Partitions = append(rt.Partitions, rp)
	r.Topics = append(r.Topics, rt)
	response := c.call(r).(*kmsg.FetchResponse)
	require.Zero(c.t, response.ErrorCode)
	require.Len(c.t, response.Topics, 1)
	require.Len(c.t, response.Topics[0].Partitions, 1)
	return response.Topics[0].Partitions[0]
}

// initProducer gets a producer id.
func (c *rawConn) initProducer() (id int64, epoch int16) {
	c.t.Helper()
	r := kmsg.NewPtrInitProducerIDRequest()
	r.SetVersion(4)
	r.TransactionTimeoutMillis, r.ProducerID, r.ProducerEpoch = 60_000, -1, -1
	response := c.call(r).(*kmsg.InitProducerIDResponse)
	require.Zero(c.t, response.ErrorCode)
	return response.ProducerID, response.ProducerEpoch
}
