package process

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/gen/braid/control/v1/controlv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
)

// relayService lets the members of other gateways take part in groups that this
// one coordinates.
type relayService struct {
	// engine returns the engine of a logical cluster; it fails if that is not served here.
	engine func(logicalCluster string) (*groups.Engine, error)
}

var _ controlv1connect.RelayServiceHandler = (*relayService)(nil)

// Member serves one membership until it or the stream ends.
func (s *relayService) Member(ctx context.Context, stream *connect.BidiStream[controlv1.MemberRequest, controlv1.MemberResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	engine, err := s.engine(first.GetLogicalCluster())
	if err != nil {
		return rpcerror.Error(err)
	}
	recv := func() ([]byte, error) {
		if r := first; r != nil {
			first = nil
			return r.GetMessage(), nil
		}
		r, err := stream.Receive()
		return r.GetMessage(), err
	}
	send := func(b []byte) error { return stream.Send(&controlv1.MemberResponse{Message: b}) }
	if err := groups.ServeMember(ctx, engine, recv, send); err != nil {
		return rpcerror.Error(err)
	}
	return nil
}

// Call answers one call of another gateway.
func (s *relayService) Call(ctx context.Context, req *controlv1.CallRequest) (*controlv1.CallResponse, error) {
	engine, err := s.engine(req.GetLogicalCluster())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	b, err := groups.ServeCall(ctx, engine, req.GetGroup(), req.GetMethod(), req.GetMessage())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &controlv1.CallResponse{Message: b}, nil
}

// relayDialer reaches other gateways; connections are shared and kept by the
// HTTP client.
func relayDialer(client *http.Client, scheme, logicalCluster string, opts ...connect.ClientOption) func(context.Context, *federation.Gateway) (groups.Peer, error) {
	return func(_ context.Context, g *federation.Gateway) (groups.Peer, error) {
		return &relayPeer{controlv1connect.NewRelayServiceClient(client, scheme+"://"+g.ConnectAddress, opts...), logicalCluster}, nil
	}
}

// A relayPeer is another gateway.
type relayPeer struct {
	client         controlv1connect.RelayServiceClient
	logicalCluster string
}

func (p *relayPeer) Call(ctx context.Context, logicalCluster, group, method string, message []byte) ([]byte, error) {
	resp, err := p.client.Call(ctx, &controlv1.CallRequest{LogicalCluster: logicalCluster, Group: group, Method: method, Message: message})
	if err != nil {
		return nil, rpcerror.FromError(err)
	}
	return resp.GetMessage(), nil
}

func (p *relayPeer) Member(ctx context.Context) (groups.Pipe, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := p.client.Member(ctx)
	if err != nil {
		cancel()
		return nil, rpcerror.FromError(err)
	}
	return &relayPipe{stream: stream, cancel: cancel, logicalCluster: p.logicalCluster}, nil
}

// A relayPipe is a stream to another gateway.
type relayPipe struct {
	stream *connect.BidiStreamForClientSimple[controlv1.MemberRequest, controlv1.MemberResponse]
	cancel context.CancelFunc

	logicalCluster string
}

func (p *relayPipe) Send(b []byte) error {
	return p.stream.Send(&controlv1.MemberRequest{Message: b, LogicalCluster: p.logicalCluster})
}

func (p *relayPipe) Recv() ([]byte, error) {
	r, err := p.stream.Receive()
	if err != nil {
		return nil, err
	}
	return r.GetMessage(), nil
}

func (p *relayPipe) Close() error {
	err := p.stream.CloseRequest()
	p.cancel()
	return errors.Join(err, p.stream.CloseResponse())
}
