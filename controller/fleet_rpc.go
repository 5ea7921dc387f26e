package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

type fleetService struct{ c *Controller }

// ListGateways returns a page of the gateways in the map, by id.
func (s *fleetService) ListGateways(_ context.Context, req *adminv1.ListGatewaysRequest) (*adminv1.ListGatewaysResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	gateways, next, err := page(t.current().Gateways, func(g *federation.Gateway) string { return string(g.ID) }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.ListGatewaysResponse{Gateways: t.gatewayProtos(gateways), NextPageToken: next}, nil
}

func (t *term) gatewayProtos(gateways []*federation.Gateway) []*adminv1.Gateway {
	out := make([]*adminv1.Gateway, len(gateways))
	for i, g := range gateways {
		out[i] = &adminv1.Gateway{
			Name:           collectionGateways + string(g.ID),
			NodeId:         int32(g.NodeID),
			ConnectAddress: g.ConnectAddress,
			KafkaAddress:   g.KafkaAddress,
			Zone:           g.Zone,
			Role:           g.Role.String(),
			State:          g.State.String(),
		}
		if s, ok := t.fleet.session(g.ID); ok {
			out[i].MapVersion, out[i].Connections, out[i].Build = int64(s.version), s.connections, s.build
		}
	}
	return out
}

// DrainGateway asks a gateway to drain. It answers when the gateway was asked;
// the gateway's state in the map tells when it has begun.
func (s *fleetService) DrainGateway(_ context.Context, req *adminv1.DrainGatewayRequest) (*adminv1.DrainGatewayResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	id, ok := strings.CutPrefix(req.GetName(), collectionGateways)
	if !ok {
		return nil, rpcerror.Error(federation.Errorf(federation.InvalidArgument, "gateway name %q: want gateways/ID", req.GetName()))
	}
	if req.GetGraceMs() < 0 {
		return nil, rpcerror.Error(federation.Errorf(federation.InvalidArgument, "gateway %q: a grace of %d ms is negative", id, req.GetGraceMs()))
	}
	g := t.current().Gateway(federation.GatewayID(id))
	if g == nil {
		return nil, rpcerror.Error(federation.Errorf(federation.InvalidArgument, "gateway %q is not registered; `braid gateway list` shows those that are", id))
	}
	if !t.fleet.ask(g.ID, &controlv1.Drain{DeadlineMs: req.GetGraceMs(), Cause: "operator"}) {
		return nil, rpcerror.Error(federation.Errorf(federation.Conflict, "gateway %q has no stream at the moment; try again", id))
	}
	return &adminv1.DrainGatewayResponse{Gateway: t.gatewayProtos([]*federation.Gateway{g})[0]}, nil
}

// GetStatus returns everything at a glance. The number of groups is left to the
// gateways, which have the groups.
func (s *fleetService) GetStatus(ctx context.Context, _ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	m := t.current()
	out := &adminv1.GetStatusResponse{
		MapVersion: int64(m.Version),
		Clusters:   t.clusterProtos(m, sortedClusters(m)),
		Gateways:   t.gatewayProtos(m.Gateways),
		Topics:     int64(len(m.Topics)),
		Alarms:     t.health.listAlarms(),
	}
	if since := t.unconfirmed(); since > 0 {
		out.Alarms = append(out.Alarms, fmt.Sprintf("this controller could not confirm for %s that it leads: what it says may be old", since.Round(time.Second)))
	}
	for _, topic := range m.Topics {
		out.Partitions += int64(len(topic.Partitions))
		for _, p := range topic.Partitions {
			out.Extents += int64(len(p.Extents))
		}
	}
	for _, rec := range t.ops.list() {
		if !rec.Done {
			out.RunningOperations = append(out.RunningOperations, operationProto(rec))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.c.cfg.LeaseTTL)
	defer cancel()
	controllers, err := s.c.parts.Store.Controllers(ctx, s.c.cfg.LogicalCluster)
	if err != nil {
		out.Alarms = append(out.Alarms, "the store of groups and maps (Redis) does not answer")
	}
	self := false
	for _, x := range controllers {
		self = self || x.ID == s.c.cfg.ID
		out.Controllers = append(out.Controllers, t.controllerProto(x.ID, x.URL))
	}
	if !self {
		out.Controllers = append(out.Controllers, t.controllerProto(s.c.cfg.ID, s.c.cfg.URL))
	}
	return out, nil
}

func (t *term) controllerProto(id, url string) *adminv1.Controller {
	out := &adminv1.Controller{Id: id, Url: url}
	if id == t.cfg.ID {
		out.Leader, out.Epoch = true, t.fencing
	}
	return out
}
