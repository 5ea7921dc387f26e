package gateway

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/recordbatch"
)

// echoSession is a router that has appended whatever it is given.
type echoSession struct {
	router.Session
	done chan func()
	next int64
}

func newEchoSession() *echoSession {
	s := &echoSession{done: make(chan func(), 1024)}
	go func() {
		for f := range s.done {
			f()
		}
	}()
	return s
}

func (s *echoSession) Produce(_ context.Context, _ router.Acks, _ time.Duration, appends []router.Append, done func([]router.Appended)) error {
	h, _ := recordbatch.ParseHeader(appends[0].Batch)
	at := s.next
	s.next += int64(h.Count)
	s.done <- func() {
		done([]router.Appended{{BaseOffset: federation.LogicalOffset(at), LogAppendTimeMs: -1, LogStart: 0}})
	}
	return nil
}

func (s *echoSession) InitProducer(context.Context, int64, int16) (int64, int16, error) {
	return testProducer, 0, nil
}

func (s *echoSession) Close() { close(s.done) }

// encoded is a request that is on the wire as it is.
type encoded []byte

// encodedCodec lets a client send without a cost of its own.
type encodedCodec struct{}

func (encodedCodec) Name() string { return "proto" }

func (encodedCodec) Marshal(m any) ([]byte, error) {
	if raw, ok := m.(*encoded); ok {
		return *raw, nil
	}
	return proto.Marshal(m.(proto.Message))
}

func (encodedCodec) MarshalAppend(dst []byte, m any) ([]byte, error) {
	if raw, ok := m.(*encoded); ok {
		return append(dst, *raw...), nil
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m.(proto.Message))
}

func (encodedCodec) Unmarshal(data []byte, m any) error {
	return proto.Unmarshal(data, m.(proto.Message))
}

// A whole Produce stream over HTTP/2, with a router that answers at once. The
// figures have the client's part in them.
func BenchmarkProduceStream(b *testing.B) {
	frame := func(records, size int) *braidv1.ProduceFrame {
		in := &braidv1.ProduceFrame{Topic: "t", Partition: new(int32)}
		for range records {
			in.Records = append(in.Records, &braidv1.Record{Value: make([]byte, size)})
		}
		return in
	}
	for name, in := range map[string]*braidv1.ProduceFrame{
		"128 records": frame(128, 1024), "1 record": frame(1, 100),
		"raw": {Topic: "t", Partition: new(int32), KafkaBatch: benchBatch(128, 1024)},
	} {
		b.Run(name, func(b *testing.B) {
			raw, err := proto.Marshal(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Batch{Batch: in}})
			require.NoError(b, err)
			b.ReportAllocs()
			b.SetBytes(payloadBytes(in))
			streamFrames(b, raw, in.GetKafkaBatch() != nil, payloadBytes(in))
		})
	}
}

func streamFrames(b *testing.B, raw encoded, plain bool, payload int64) {
	b.Helper()
	w := federationtest.New(map[string][]string{"a": nil})
	w.SetTopic("t", nil, []*federation.Extent{federationtest.Head("a", "t", 0)})
	g, err := New(Config{TokenKey: []byte("a key for tests only")}, Deps{Maps: w, NewSession: func() router.Session { return newEchoSession() }})
	require.NoError(b, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	server := NewServer(g.Handler(), 0)
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols, HTTP2: &http.HTTP2Config{MaxReadFrameSize: 1 << 20}}}
	stream := connect.NewClient[braidv1.ProduceRequest, braidv1.ProduceResponse](client,
		"http://"+listener.Addr().String()+braidv1connect.ProducerServiceProduceProcedure, connect.WithCodec(encodedCodec{})).CallBidiStream(b.Context())
	require.NoError(b, stream.Send(&braidv1.ProduceRequest{Frame: &braidv1.ProduceRequest_Open{Open: &braidv1.ProduceOpen{NonIdempotent: plain}}}))
	conn, err := stream.Conn()
	require.NoError(b, err)
	credit, sent, acked := new(braidv1.Credit), int64(0), 0
	receive := func() {
		resp, err := stream.Receive()
		if err != nil {
			b.Fatal(err)
		}
		if o := resp.GetOpened(); o != nil {
			credit = o.GetCredit()
		}
		if c := resp.GetCredit(); c != nil {
			credit = c
		}
		for _, a := range resp.GetAcks().GetAcks() {
			if f := a.GetResults()[0].GetFailure(); f != nil {
				b.Fatal(f)
			}
			acked++
		}
	}
	receive()
	n := 0
	for b.Loop() {
		for sent+1 > credit.GetMaxBatches() || (sent+1)*payload > credit.GetMaxBytes() {
			receive()
		}
		if err := conn.Send(&raw); err != nil {
			b.Fatal(err)
		}
		sent++
		n++
	}
	for acked < n {
		receive()
	}
}
