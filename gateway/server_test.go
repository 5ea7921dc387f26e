package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway"
	"github.com/braidmq/braid/gateway/groups"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/recordbatch"
	"github.com/braidmq/braid/internal/rpcerror"
)

// A controller answers admin calls; what it does not have is not found.
type controller struct {
	adminv1connect.UnimplementedTopicServiceHandler
	adminv1connect.UnimplementedOperationServiceHandler
}

func (controller) GetTopic(_ context.Context, r *adminv1.GetTopicRequest) (*adminv1.GetTopicResponse, error) {
	if strings.HasSuffix(r.GetName(), "/broken") {
		panic(http.ErrAbortHandler) // as if it died
	}
	if !strings.HasSuffix(r.GetName(), "/orders") {
		return nil, rpcerror.Error(federation.Errorf(federation.UnknownTopic, "topic %q does not exist", r.GetName()))
	}
	return &adminv1.GetTopicResponse{Topic: &adminv1.Topic{Name: r.GetName(), PartitionCount: 7}}, nil
}

func (controller) CreateTopic(_ context.Context, r *adminv1.CreateTopicRequest) (*adminv1.CreateTopicResponse, error) {
	if r.GetTopicId() == "good" {
		return &adminv1.CreateTopicResponse{}, nil
	}
	return nil, rpcerror.Error(federation.Errorf(federation.InvalidConfig, "topic %q is wrong", r.GetTopicId()))
}

func (controller) WatchOperation(ctx context.Context, r *adminv1.WatchOperationRequest, out *connect.ServerStream[adminv1.WatchOperationResponse]) error {
	for i := range 3 {
		if err := out.Send(&adminv1.WatchOperationResponse{Operation: &adminv1.Operation{Name: r.GetName(), Done: i == 2}}); err != nil {
			return err
		}
	}
	switch r.GetName() {
	case "operations/endless":
		<-ctx.Done()
	case "operations/broken":
		panic(http.ErrAbortHandler) // as a standby does when the leader that it passes the call to dies
	}
	return nil
}

// withController has the world's gateway pass admin calls on to a controller.
func withController(t *testing.T) option {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(adminv1connect.NewTopicServiceHandler(controller{}))
	mux.Handle(adminv1connect.NewOperationServiceHandler(controller{}))
	w := &world{}
	w.listen(t, gateway.NewServer(mux, 0))
	return func(_ *gateway.Config, d *gateway.Deps) {
		d.Topics = adminv1connect.NewTopicServiceClient(h2c(t), w.url)
		d.Operations = adminv1connect.NewOperationServiceClient(h2c(t), w.url, connect.WithGRPC())
	}
}

func TestAdminCallsReachTheController(t *testing.T) {
	w := newWorld(t, withController(t))
	topics := adminv1connect.NewTopicServiceClient(h2c(t), w.url)
	got, err := topics.GetTopic(ctxFor(t), &adminv1.GetTopicRequest{Name: "logicalClusters/default/topics/orders"})
	require.NoError(t, err)
	require.EqualValues(t, 7, got.GetTopic().GetPartitionCount())
	_, err = topics.GetTopic(ctxFor(t), &adminv1.GetTopicRequest{Name: "x"})
	require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
	require.Equal(t, braidv1.Reason_REASON_UNKNOWN_TOPIC, reasonOf(t, err))
	_, err = topics.GetTopic(ctxFor(t), &adminv1.GetTopicRequest{Name: "x/broken"})
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v", err)
	operations := adminv1connect.NewOperationServiceClient(h2c(t), w.url)
	stream, err := operations.WatchOperation(ctxFor(t), &adminv1.WatchOperationRequest{Name: "operations/1"})
	require.NoError(t, err)
	n := 0
	for ; stream.Receive(); n++ {
		require.Equal(t, n == 2, stream.Msg().GetOperation().GetDone())
	}
	require.NoError(t, stream.Err())
	require.Equal(t, 3, n)
	broken, err := operations.WatchOperation(ctxFor(t), &adminv1.WatchOperationRequest{Name: "operations/broken"})
	require.NoError(t, err)
	for broken.Receive() {
	}
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(broken.Err()), "it is to be watched again: %v", broken.Err())
	endless, err := operations.WatchOperation(ctxFor(t), &adminv1.WatchOperationRequest{Name: "operations/endless"})
	require.NoError(t, err)
	require.True(t, endless.Receive())
	require.NoError(t, w.g.Drain(ctxFor(t)))
	for endless.Receive() {
	}
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(endless.Err()))
}

func TestReflectionAndHealth(t *testing.T) {
	w := newWorld(t, withController(t))
	reflection := grpcreflect.NewClient(h2c(t), w.url, connect.WithGRPC()).NewStream(ctxFor(t))
	names, err := reflection.ListServices()
	require.NoError(t, err)
	for _, want := range []protoreflect.FullName{
		braidv1connect.ProducerServiceName, braidv1connect.ConsumerServiceName, adminv1connect.GroupServiceName,
		adminv1connect.TopicServiceName, adminv1connect.OperationServiceName, "grpc.health.v1.Health",
	} {
		require.Contains(t, names, want)
		files, err := reflection.FileContainingSymbol(want)
		require.NoError(t, err)
		require.NotEmpty(t, files)
	}
	require.NotContains(t, names, protoreflect.FullName(adminv1connect.FleetServiceName), "it is not mounted")
	_, err = reflection.Close()
	require.NoError(t, err)
	health := grpchealth.NewClient(h2c(t), w.url)
	for _, want := range []grpchealth.Status{grpchealth.StatusServing, grpchealth.StatusNotServing} {
		for _, service := range []string{"", braidv1connect.ProducerServiceName} {
			res, err := health.Check(ctxFor(t), &grpchealth.CheckRequest{Service: service})
			require.NoError(t, err)
			require.Equal(t, want, res.Status, service)
		}
		require.NoError(t, w.g.Drain(ctxFor(t)))
	}
}

func TestCompressedRequestsAreTaken(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	res, err := w.producer(t, connect.WithSendGzip()).ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{
		Batch: &braidv1.ProduceFrame{Topic: "orders", Records: []*braidv1.Record{{Value: make([]byte, 100000)}}},
	})
	require.NoError(t, err)
	require.Nil(t, res.GetAck().GetResults()[0].GetFailure())
	req, err := http.NewRequestWithContext(ctxFor(t), http.MethodPost, w.url+braidv1connect.ConsumerServiceFetchProcedure,
		strings.NewReader(`{"sources":[{"topic":"orders","start":{"earliest":true}}]}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "gzip")
	got, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer func() { _ = got.Body.Close() }()
	require.Empty(t, got.Header.Get("Content-Encoding"), "not sent compressed")
	require.Equal(t, "no-store", got.Header.Get("Cache-Control"))
	body, err := io.ReadAll(got.Body)
	require.NoError(t, err)
	require.Greater(t, len(body), 100000)
	// A message that is small only while it is compressed is refused.
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, err = zip.Write(bytes.Repeat([]byte(" "), 9<<20))
	require.NoError(t, err)
	require.NoError(t, zip.Close())
	req, err = http.NewRequestWithContext(ctxFor(t), http.MethodPost, w.url+braidv1connect.ProducerServiceProduceBatchProcedure, &bomb)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	got, err = http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = got.Body.Close() }()
	require.Equal(t, http.StatusTooManyRequests, got.StatusCode, "RESOURCE_EXHAUSTED")
}

func TestBrowsersMayCallIfConfigured(t *testing.T) {
	preflight := func(w *world) http.Header {
		req, err := http.NewRequestWithContext(ctxFor(t), http.MethodOptions, w.url+braidv1connect.ConsumerServiceReadProcedure, nil)
		require.NoError(t, err)
		req.Header.Set("Origin", "https://app.example")
		req.Header.Set("Access-Control-Request-Method", "POST")
		req.Header.Set("Access-Control-Request-Headers", "connect-protocol-version,content-type")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.Header
	}
	on := preflight(newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.CORSOrigins = []string{"https://app.example"} }))
	require.Equal(t, "https://app.example", on.Get("Access-Control-Allow-Origin"))
	require.Empty(t, preflight(newWorld(t)).Get("Access-Control-Allow-Origin"))
}

func TestBidirectionalStreamsNeedHTTP2(t *testing.T) {
	w := newWorld(t)
	stream, err := braidv1connect.NewProducerServiceClient(http.DefaultClient, w.url).Produce(ctxFor(t))
	require.NoError(t, err)
	_ = stream.Send(&braidv1.ProduceRequest{})
	_ = stream.CloseRequest()
	_, err = stream.Receive()
	require.Error(t, err)
	require.Contains(t, err.Error(), "HTTP")
}

func TestCallsAreBounded(t *testing.T) {
	w := newWorld(t, func(c *gateway.Config, _ *gateway.Deps) { c.CallsMax = 1 })
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	for name, o := range map[string][]connect.ClientOption{"Connect": nil, "gRPC": {connect.WithGRPC()}, "gRPC-Web": {connect.WithGRPCWeb()}} {
		stream, err := braidv1connect.NewProducerServiceClient(h2c(t), w.url, o...).Produce(ctxFor(t))
		require.NoError(t, err)
		require.NoError(t, stream.CloseRequest())
		_, err = stream.Receive()
		require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err), name)
		require.ErrorContains(t, err, "--calls-max", name)
		require.Equal(t, braidv1.Reason_REASON_THROTTLED, reasonOf(t, err), name)
		_, err = braidv1connect.NewProducerServiceClient(h2c(t), w.url, o...).ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{})
		require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err), name)
	}
	open, most, refused := w.g.Calls()
	require.Equal(t, []int64{1, 1, 6}, []int64{open, most, refused})

	// Operators, and who asks whether it is well, get in.
	_, err := adminv1connect.NewGroupServiceClient(h2c(t), w.url).ListGroups(ctxFor(t), &adminv1.ListGroupsRequest{})
	require.NoError(t, err)
	resp, err := h2c(t).Post(w.url+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)

	c.finish()
	require.Eventually(t, func() bool { open, _, _ := w.g.Calls(); return open == 0 }, waitFor, tick)
	w.produce(t, &braidv1.ProduceOpen{}).finish()
}

// A coordinator that panics, to see what becomes of a bug.
type buggyGroups struct{ groups.Coordinator }

func (buggyGroups) Describe(context.Context, string) (groups.Description, error) {
	panic("secret-host:9092 is wrong")
}

func (buggyGroups) Delete(context.Context, string) error {
	return errors.New("dial tcp secret-host:9092: refused")
}

// What clients may send at once decides how much they, and other gateways, keep for each
// stream.
func TestFramesOfHTTP2AreSmall(t *testing.T) {
	w := newWorld(t)
	c, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte(http2.ClientPreface))
	require.NoError(t, err)
	f := http2.NewFramer(c, c)
	require.NoError(t, f.WriteSettings())
	frame, err := f.ReadFrame()
	require.NoError(t, err)
	size, ok := frame.(*http2.SettingsFrame).Value(http2.SettingMaxFrameSize)
	require.True(t, ok)
	require.EqualValues(t, 64<<10, size)
}

func TestBugsAndDriverTextsStayInside(t *testing.T) {
	w := newWorld(t, func(_ *gateway.Config, d *gateway.Deps) { d.Groups = buggyGroups{d.Groups} })
	admin := adminv1connect.NewGroupServiceClient(h2c(t), w.url)
	_, err := admin.GetGroup(ctxFor(t), &adminv1.GetGroupRequest{Name: "g"})
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.NotContains(t, err.Error(), "secret")
	_, err = admin.DeleteGroup(ctxFor(t), &adminv1.DeleteGroupRequest{Name: "g"})
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err))
	require.Equal(t, braidv1.Reason_REASON_INTERNAL, reasonOf(t, err))
	require.NotContains(t, err.Error(), "secret")
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]gateway.Config{
		"no key":        {},
		"short key":     {TokenKey: []byte("short")},
		"in flight":     {TokenKey: make([]byte, 32), PartitionInFlightMax: 6},
		"frame":         {TokenKey: make([]byte, 32), FrameBytesMax: 9 << 20},
		"little credit": {TokenKey: make([]byte, 32), ProduceCreditBytes: 1},
	} {
		_, err := gateway.New(cfg, gateway.Deps{})
		require.Error(t, err, name)
	}
}

func TestRawBatchArrivesUnchanged(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1, nil)
	c := w.produce(t, &braidv1.ProduceOpen{})
	zero := int32(0)
	raw := func(p recordbatch.Producer, values ...string) []byte {
		var b recordbatch.Builder
		b.Reset(nil)
		for _, v := range values {
			b.Add(&recordbatch.Record{TimestampMs: 1_700_000_000_000, Value: []byte(v)})
		}
		return b.Finish(p)
	}
	id := c.opened.GetProducer()
	sent := raw(recordbatch.Producer{ID: id.GetProducerId(), Epoch: int16(id.GetProducerEpoch())}, "a", "b")
	ack := c.ack(c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &zero, KafkaBatch: bytes.Clone(sent)}))
	require.Nil(t, ack.GetResults()[0].GetFailure())
	require.EqualValues(t, 2, ack.GetResults()[0].GetNextSequence())
	broken := bytes.Clone(sent)
	broken[len(broken)-1]++
	ack = c.ack(c.frame(&braidv1.ProduceFrame{Topic: "orders", Partition: &zero, KafkaBatch: broken}))
	require.Equal(t, braidv1.Reason_REASON_CORRUPT_BATCH, ack.GetResults()[0].GetFailure().GetReason())
	c.finish()
	batches, _ := readAll(t, w.consumer(t), &braidv1.ReadRequest{
		Sources: from("orders", earliest), Stop: toTheEnd,
		Delivery: &braidv1.Delivery{Format: braidv1.RecordFormat_RECORD_FORMAT_KAFKA_V2},
	})
	got := batches[0].GetKafkaBatches()
	const patched = 16 // base offset, length, leader epoch
	require.Equal(t, sent[patched:], got[patched:])
}

// noMap is the view of a gateway that has just started.
type noMap struct{}

func (noMap) Current() *federation.Map {
	return (&federation.Map{LogicalCluster: federation.DefaultLogicalCluster}).Seal()
}
func (noMap) Changed() <-chan struct{} { return nil }

// A gateway that has just started knows no topic, and must not say that one does not
// exist: its client would give up.
func TestWithoutAMapClientsAreToldToTryAgain(t *testing.T) {
	w := newWorld(t, func(_ *gateway.Config, d *gateway.Deps) { d.Maps = noMap{} })
	one := int32(1)
	_, err := w.producer(t).ProduceBatch(ctxFor(t), &braidv1.ProduceBatchRequest{Batch: &braidv1.ProduceFrame{
		BatchSeq: 1, Topic: "orders", Partition: &one, Records: []*braidv1.Record{{Value: []byte("v")}},
	}})
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v", err)
	_, err = w.consumer(t).GetTopicInfo(ctxFor(t), &braidv1.GetTopicInfoRequest{Topic: "orders"})
	require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v", err)
}
