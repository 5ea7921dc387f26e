package suite

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

func (s *suite) badInput() []test {
	return []test{
		{"frames that are no Kafka", s.testBadFrames},
		{"ApiVersions of any version", s.testAPIVersions},
		{"keys and versions from the future", s.testUnknownRequests},
		{"batches that are wrong", s.testBadBatches},
		{"half a request and then nothing", s.testHalfRequest},
		{"Connect frames that are wrong", s.testBadConnectFrames},
		{"Connect calls that are wrong", s.testBadConnectCalls},
		{"many idle connections", s.testIdleConnections},
	}
}

// requireAlive checks that other clients are unharmed.
func (s *suite) requireAlive(t *testing.T) {
	t.Helper()
	topic := s.topic(t, 1)
	send(t, s.client(t), &kgo.Record{Topic: topic, Value: []byte("v")})
	s.read(t, topic, 1)
	for _, g := range s.w.Gateways {
		require.True(t, g.Running())
	}
}

func (s *suite) testBadFrames(t *testing.T) {
	frame := func(body []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.SetVersion(9)
	good := kmsg.NewRequestFormatter().AppendRequest(nil, metadata, 1)
	for what, b := range map[string][]byte{
		"a length of 2 GB":              {0x7f, 0xff, 0xff, 0xff, 0, 18, 0, 0},
		"a negative length":             {0xff, 0xff, 0xff, 0xff, 0, 18, 0, 0},
		"a length of 0":                 {0, 0, 0, 0, 0, 18, 0, 0},
		"an HTTP request":               []byte("GET / HTTP/1.1\r\nHost: braid\r\n\r\n"),
		"a frame that is cut in a body": frame(good[4 : len(good)-2]),
		"a client id without an end":    frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 'x'}),
		"an array of 2 billion":         frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff}),
	} {
		t.Run(what, func(t *testing.T) {
			conn := dial(t, s.w.KafkaAddresses()[0])
			conn.write(b)
			conn.requireClosed(what)
		})
	}
	s.requireAlive(t)
}

func (s *suite) testAPIVersions(t *testing.T) {
	conn := dial(t, s.w.KafkaAddresses()[0])
	for version := int16(0); version <= 4; version++ {
		r := kmsg.NewPtrApiVersionsRequest()
		r.SetVersion(version)
		r.ClientSoftwareName, r.ClientSoftwareVersion = "suite", "1"
		response := conn.call(r).(*kmsg.ApiVersionsResponse)
		require.Zero(t, response.ErrorCode, "version %d", version)
		served := make(map[int16][2]int16)
		for _, k := range response.ApiKeys {
			served[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
		}
		// librdkafka turns compression off if Produce does not begin at 0 (KAFKA-18659).
		require.Equal(t, int16(0), served[0][0])
		require.GreaterOrEqual(t, served[0][1], int16(13))
		require.GreaterOrEqual(t, served[1][1], int16(18))
	}
	// A version that nobody knows is answered in version 0, with the table.
	header := binary.BigEndian.AppendUint16(nil, 18)
	header = binary.BigEndian.AppendUint16(header, 999)
	header = binary.BigEndian.AppendUint32(header, 77)
	header = append(header, 0, 1, 'x', 0)
	conn.corr = 77
	conn.write(append(binary.BigEndian.AppendUint32(nil, uint32(len(header))), header...))
	var response kmsg.ApiVersionsResponse
	require.NoError(t, response.ReadFrom(conn.receive()))
	require.Equal(t, kerr.UnsupportedVersion.Code, response.ErrorCode)
	require.NotEmpty(t, response.ApiKeys)
	require.Zero(t, conn.call(kmsg.NewPtrApiVersionsRequest()).(*kmsg.ApiVersionsResponse).ErrorCode, "the connection lives on")
}

func (s *suite) testUnknownRequests(t *testing.T) {
	for what, at := range map[string][2]uint16{"a key": {999, 0}, "a version": {0, 99}, "a negative version": {3, 0xffff}, "a broker's own request": {6, 0}} {
		t.Run(what, func(t *testing.T) {
			conn := dial(t, s.w.KafkaAddresses()[0])
			body := binary.BigEndian.AppendUint16(nil, at[0])
			body = binary.BigEndian.AppendUint16(body, at[1])
			body = append(body, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0)
			conn.write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
			conn.requireClosed(what)
		})
	}
	s.requireAlive(t)
}

func (s *suite) testBadBatches(t *testing.T) {
	topic := s.topic(t, 1)
	conn := dial(t, s.w.KafkaAddresses()[0])
	good := func() []byte { return plainBatch("a", "b").encode() }
	change := func(at int, b byte) []byte {
		batch := good()
		batch[at] ^= b
		return batch
	}
	signed := func(at int, to ...byte) []byte {
		batch := good()
		copy(batch[at:], to)
		return sign(batch)
	}
	for what, c := range map[string]struct {
		batch []byte
		want  []*kerr.Error
	}{
		"a wrong CRC":             {change(17, 1), []*kerr.Error{kerr.CorruptMessage}},
		"a changed record":        {change(len(good())-1, 1), []*kerr.Error{kerr.CorruptMessage}},
		"a count that is too big": {signed(57, 0, 0, 0, 9), []*kerr.Error{kerr.InvalidRecord, kerr.CorruptMessage}},
		"a count of 0":            {signed(57, 0, 0, 0, 0), []*kerr.Error{kerr.InvalidRecord, kerr.CorruptMessage}},
		"a wrong last offset":     {signed(23, 0, 0, 0, 9), []*kerr.Error{kerr.InvalidRecord, kerr.CorruptMessage}},
		"magic 1":                 {signed(16, 1), []*kerr.Error{kerr.UnsupportedForMessageFormat, kerr.CorruptMessage, kerr.InvalidRecord}},
		"magic 9":                 {signed(16, 9), []*kerr.Error{kerr.UnsupportedForMessageFormat, kerr.CorruptMessage, kerr.InvalidRecord}},
		"an unknown codec":        {signed(21, 0, 7), []*kerr.Error{kerr.UnsupportedCompressionType, kerr.CorruptMessage, kerr.InvalidRecord}},
		"a control batch":         {signed(21, 0, 0x20), []*kerr.Error{kerr.InvalidRecord}},
		"cut off":                 {good()[:70], []*kerr.Error{kerr.CorruptMessage, kerr.InvalidRecord}},
		"a header alone":          {good()[:30], []*kerr.Error{kerr.CorruptMessage, kerr.InvalidRecord}},
		"empty":                   {[]byte{}, []*kerr.Error{kerr.CorruptMessage, kerr.InvalidRecord}},
		"two batches":             {append(good(), good()...), []*kerr.Error{kerr.InvalidRecord, kerr.CorruptMessage}},
		"a length beyond the end": {func() []byte { b := good(); b[10] = 0x7f; return b }(), []*kerr.Error{kerr.CorruptMessage, kerr.InvalidRecord}},
		"a negative length":       {func() []byte { b := good(); b[8] = 0xff; return b }(), []*kerr.Error{kerr.CorruptMessage, kerr.InvalidRecord}},
	} {
		t.Run(what, func(t *testing.T) {
			answer := conn.produce(topic, 0, -1, c.batch)
			var codes []int16
			for _, w := range c.want {
				codes = append(codes, w.Code)
			}
			require.Contains(t, codes, answer.ErrorCode, "%v", kerr.ErrorForCode(answer.ErrorCode))
		})
	}
	require.Zero(t, s.end(t, topic), "nothing of it is in the log")
	require.Zero(t, conn.produce(topic, 0, -1, good()).ErrorCode, "the connection lives on")
}

func (s *suite) testHalfRequest(t *testing.T) {
	var open []*rawConn
	for range 20 {
		conn := dial(t, s.w.KafkaAddresses()[0])
		conn.write([]byte{0, 0, 1, 0, 0, 3})
		open = append(open, conn)
	}
	s.requireAlive(t)
	for _, c := range open {
		require.NoError(t, c.conn.Close())
	}
	s.requireAlive(t)
}

// post sends a body to a method and returns the status and the answer.
func (s *suite) post(t *testing.T, method, contentType string, body []byte) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.w.API()+"/"+method, bytes.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", contentType)
	if strings.Contains(contentType, "grpc") {
		request.Header.Set("Te", "trailers")
	}
	response, err := s.w.Client.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(answer) + " " + response.Trailer.Get("Grpc-Status") + response.Header.Get("Grpc-Status")
}

func (s *suite) testBadConnectFrames(t *testing.T) {
	status, _ := s.post(t, "braid.v1.ProducerService/ProduceBatch", "application/proto", []byte{0xff, 0xff, 0xff})
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = s.post(t, "braid.v1.ProducerService/NoSuchMethod", "application/proto", nil)
	require.Equal(t, http.StatusNotFound, status)
	status, _ = s.post(t, "braid.v1.ProducerService/ProduceBatch", "text/plain", []byte("hello"))
	require.Equal(t, http.StatusUnsupportedMediaType, status)
	// Streams: a length of 2 GB, a frame that is cut, bytes that are no message.
	for _, b := range [][]byte{{0, 0x7f, 0xff, 0xff, 0xff}, {0, 0, 0, 0, 9, 1}, {0, 0, 0, 0, 2, 0xff, 0xff}, {7, 0, 0, 0, 0}} {
		for _, kind := range []string{"application/grpc", "application/connect+proto"} {
			_, answer := s.post(t, "braid.v1.ProducerService/Produce", kind, b)
			require.NotEmpty(t, answer)
			require.NotContains(t, answer, "panic")
		}
	}
	huge := append([]byte{0, 4, 0, 0, 0}, make([]byte, 64<<20)...)
	request, err := http.NewRequestWithContext(call(t), http.MethodPost, s.w.API()+"/braid.v1.ProducerService/Produce", bytes.NewReader(huge))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("Te", "trailers")
	if response, err := s.w.Client.Do(request); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		require.NotEqual(t, "0", response.Trailer.Get("Grpc-Status"), "64 MiB in a frame")
	}
	s.requireAlive(t)
}

func (s *suite) testBadConnectCalls(t *testing.T) {
	topic := s.topic(t, 1)
	open := func(frames ...*braidv1.ProduceRequest) error {
		stream, err := s.producerAPI().Produce(call(t))
		require.NoError(t, err)
		for _, f := range frames {
			if err := stream.Send(f); err != nil {
				break
			}
		}
		_ = stream.CloseRequest()
		for {
			if _, err := stream.Receive(); err != nil {
				return err
			}
		}
	}
	batch := func(seq uint64, records ...*braidv1.Record) *braidv1.ProduceRequest {
		return &braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: &braidv1.ProduceFrame{BatchSeq: seq, Topic: topic, Records: records}}}
	}
	start := &braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{}}}
	for what, frames := range map[string][]*braidv1.ProduceRequest{
		"no open":                {batch(1, &braidv1.Record{Value: []byte("v")})},
		"nothing in the frame":   {{}},
		"open twice":             {start, start},
		"a gap":                  {start, batch(1, &braidv1.Record{Value: []byte("v")}), batch(3, &braidv1.Record{Value: []byte("v")})},
		"a forged identity":      {{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{Producer: &braidv1.ProducerIdentity{ProducerId: 7, Token: []byte("x")}}}}},
		"an unknown cluster":     {{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{LogicalCluster: "no-such-cluster"}}}},
		"acks that are not ours": {{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{Acks: 99}}}},
	} {
		err := open(frames...)
		require.NotErrorIs(t, err, io.EOF, what)
		code := connect.CodeOf(err)
		require.NotContains(t, []connect.Code{connect.CodeUnknown, connect.CodeInternal, connect.CodeDeadlineExceeded}, code, "%s: %v", what, err)
	}
	for what, r := range map[string]*braidv1.ReadRequest{
		"no source":          {},
		"a negative offset":  {Sources: []*braidv1.ReadSource{{Topic: topic, Start: &braidv1.Position{At: &braidv1.Position_Offset{Offset: -5}}}}, Stop: latestAtStart()},
		"an unknown cluster": {LogicalCluster: "no-such-cluster", Sources: fromStart(topic), Stop: latestAtStart()},
	} {
		stream, err := s.consumerAPI().Read(call(t), r)
		require.NoError(t, err)
		failed := false
		for stream.Receive() {
			failed = failed || stream.Msg().GetPartitionFailure() != nil
		}
		require.True(t, failed || stream.Err() != nil, what)
		require.NotEqual(t, connect.CodeInternal, connect.CodeOf(stream.Err()), "%s: %v", what, stream.Err())
	}
	stream, err := s.consumerAPI().Consume(call(t))
	require.NoError(t, err)
	require.NoError(t, stream.Send(&braidv1.ConsumeRequest{Frame: &braidv1.ConsumeRequest_Subscribe{Subscribe: &braidv1.Subscribe{TopicRegex: "("}}}))
	_, err = stream.Receive()
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "%v", err)
	s.requireAlive(t)
}

func (s *suite) testIdleConnections(t *testing.T) {
	for range 300 {
		conn, err := net.DialTimeout("tcp", s.w.KafkaAddresses()[0], 5*time.Second)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
	}
	s.requireAlive(t)
}
