// Package nameserver tells clients which gateways to use: it is asked once, at
// the start, and answers from the map with the same function that all gateways
// use for their own answers.
package nameserver

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	namingv1 "github.com/braidmq/braid/gen/braid/naming/v1"
	"github.com/braidmq/braid/gen/braid/naming/v1/namingv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
)

// Maps is the name service's view of the federation.
type Maps interface {
	// Current returns the newest map; never nil.
	Current() *federation.Map
	// Changed returns a channel that is closed when the map after the one that
	// Current returned at the time of the call is in.
	Changed() <-chan struct{}
}

// Config holds the limits of a name service. Zero fields take the defaults.
type Config struct {
	// TTL is how long a client or a cache may keep an answer; 60 s by default.
	TTL time.Duration
	// HeartbeatInterval is the longest silence on a Watch stream; 10 s by default.
	HeartbeatInterval time.Duration
	// WatchersMax bounds the Watch streams of this process; 10000 by default.
	WatchersMax int64
}

func (c Config) withDefaults() Config {
	if c.TTL == 0 {
		c.TTL = time.Minute
	}
	if c.HeartbeatInterval == 0 {
		c.HeartbeatInterval = 10 * time.Second
	}
	if c.WatchersMax == 0 {
		c.WatchersMax = 10000
	}
	return c
}

// A Service answers NameService calls. It is safe for concurrent use.
type Service struct {
	cfg      Config
	maps     Maps
	watchers *atomic.Int64
}

var _ namingv1connect.NameServiceHandler = (*Service)(nil)

// New makes a Service over maps.
func New(cfg Config, maps Maps) *Service {
	return &Service{cfg: cfg.withDefaults(), maps: maps, watchers: new(atomic.Int64)}
}

// Of is the name service of another logical cluster, within the bounds of this one.
func (s *Service) Of(maps Maps) *Service {
	return &Service{cfg: s.cfg, maps: maps, watchers: s.watchers}
}

// Handler returns the path and the HTTP handler of the service.
func (s *Service) Handler(opts ...connect.HandlerOption) (string, http.Handler) {
	return namingv1connect.NewNameServiceHandler(s, opts...)
}

// Resolve answers from the current map: the gateways of a client, best first.
// It fails with NoLeader (retriable) while no gateway fits.
func (s *Service) Resolve(_ context.Context, req *namingv1.ResolveRequest) (*namingv1.ResolveResponse, error) {
	resp, err := s.answer(s.maps.Current(), req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return resp, nil
}

// Watch sends the answer at once, unless the client has it already, and then
// whenever it changes. In between, the last answer is repeated as a heartbeat.
func (s *Service) Watch(ctx context.Context, req *namingv1.WatchRequest, stream *connect.ServerStream[namingv1.WatchResponse]) error {
	if s.watchers.Add(1) > s.cfg.WatchersMax {
		s.watchers.Add(-1)
		return rpcerror.Error(federation.Errorf(federation.Throttled, "this name service has its %d watchers already; use Resolve, or try again later", s.cfg.WatchersMax))
	}
	defer s.watchers.Add(-1)
	query := req.GetQuery()
	if query == nil {
		query = &namingv1.ResolveRequest{}
	}
	var last *namingv1.ResolveResponse
	heartbeat := time.NewTicker(s.cfg.HeartbeatInterval)
	defer heartbeat.Stop()
	for {
		changed := s.maps.Changed()
		m := s.maps.Current()
		answer, err := s.answer(m, query)
		switch {
		case err != nil && federation.KindOf(err) != federation.NoLeader:
			return rpcerror.Error(err)
		case err != nil:
			// No gateway fits right now: the client keeps what it has.
		case last == nil && int64(m.Version) <= req.GetGeneration():
			last = answer
		case last == nil || !slices.EqualFunc(last.Endpoints, answer.Endpoints, sameEndpoint):
			if err := stream.Send(&namingv1.WatchResponse{Answer: answer}); err != nil {
				return err
			}
			last = answer
			heartbeat.Reset(s.cfg.HeartbeatInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-heartbeat.C:
			if err := stream.Send(&namingv1.WatchResponse{Answer: last}); err != nil {
				return err
			}
		}
	}
}

func sameEndpoint(a, b *namingv1.Endpoint) bool { return proto.Equal(a, b) }

// answer is pure: the same map and query give the same answer everywhere.
func (s *Service) answer(m *federation.Map, req *namingv1.ResolveRequest) (*namingv1.ResolveResponse, error) {
	if lc := req.GetLogicalCluster(); lc != "" && lc != m.LogicalCluster {
		return nil, federation.Errorf(federation.InvalidArgument, "logical cluster %q does not exist; leave it empty for the default one", lc)
	}
	client := federation.ParseClient(req.GetClientId(), req.GetZone())
	switch req.GetUse() {
	case namingv1.Use_USE_PRODUCE:
		client.Role = federation.RoleProduce
	case namingv1.Use_USE_CONSUME:
		client.Role = federation.RoleConsume
	case namingv1.Use_USE_BOTH:
		client.Role = federation.RoleBoth
	case namingv1.Use_USE_UNSPECIFIED: // what the client id says
	default:
		return nil, federation.Errorf(federation.InvalidArgument, "use %d is not known", req.GetUse())
	}
	client.Kafka = req.GetProtocol() == namingv1.Protocol_PROTOCOL_KAFKA
	resp := &namingv1.ResolveResponse{Generation: int64(m.Version), TtlMs: s.cfg.TTL.Milliseconds()}
	for _, g := range m.ClientGateways(client) {
		address := g.ConnectAddress
		if client.Kafka {
			address = g.KafkaAddress
		}
		if address != "" {
			resp.Endpoints = append(resp.Endpoints, &namingv1.Endpoint{Address: address, Zone: g.Zone, Weight: 1, GatewayId: string(g.ID)})
		}
	}
	if len(resp.Endpoints) == 0 {
		return nil, federation.Errorf(federation.NoLeader, "no gateway that serves %s is ready; try again in a moment", client.Role)
	}
	return resp, nil
}
