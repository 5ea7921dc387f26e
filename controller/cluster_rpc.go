package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/internal/upstream"
)

// weightDefault is the weight of a cluster that is registered without one.
const weightDefault = 100

// seedsMax bounds the seeds of a cluster.
const seedsMax = 64

type clusterService struct{ c *Controller }

// CreateCluster registers a Kafka cluster after a look at it.
func (s *clusterService) CreateCluster(ctx context.Context, req *adminv1.CreateClusterRequest) (*adminv1.CreateClusterResponse, error) {
	out, err := s.c.createCluster(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.CreateClusterResponse{Cluster: out}, nil
}

func (c *Controller) createCluster(ctx context.Context, req *adminv1.CreateClusterRequest) (*adminv1.Cluster, error) {
	t, err := c.leading()
	if err != nil {
		return nil, err
	}
	in := req.GetCluster()
	name, err := parseCluster(in.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkSeeds(name, in.GetBootstrap()); err != nil {
		return nil, err
	}
	if in.GetWeight() < 0 {
		return nil, federation.Errorf(federation.InvalidArgument, "physical cluster %q: weight %d is negative", name, in.GetWeight())
	}
	if err := checkProfile(name, in.GetSecurityProfile()); err != nil {
		return nil, err
	}
	cluster := &federation.Cluster{
		Name: name, Seeds: in.GetBootstrap(), State: federation.ClusterActive, Weight: in.GetWeight(), SecurityProfile: in.GetSecurityProfile(),
	}
	setDefault(&cluster.Weight, weightDefault)
	if err := checkNewCluster(t.current(), cluster); err != nil {
		return nil, err
	}
	info, err := c.probe(ctx, cluster)
	if err != nil {
		return nil, err
	}
	cluster.PhysicalID = info.ClusterID
	if err := checkNewCluster(t.current(), cluster); err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		return t.clusterProto(t.current(), cluster), nil
	}
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		if err := checkNewCluster(m, cluster); err != nil {
			return nil, err
		}
		return planner.WithCluster(m, cluster), nil
	})
	if err != nil {
		return nil, err
	}
	t.health.set(name, clusterHealth{healthy: true, brokers: int32(len(info.Brokers))})
	c.log.Info("physical cluster registered", "cluster", name, "brokers", len(info.Brokers))
	return t.clusterProto(m, cluster), nil
}

func checkSeeds(name federation.ClusterName, seeds []string) error {
	if len(seeds) == 0 || len(seeds) > seedsMax {
		return federation.Errorf(federation.InvalidArgument, "physical cluster %q: %d bootstrap addresses: want 1 to %d", name, len(seeds), seedsMax)
	}
	for _, s := range seeds {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return federation.Errorf(federation.InvalidArgument, "physical cluster %q: bootstrap address %q: want HOST:PORT", name, s)
		}
	}
	return nil
}

// checkNewCluster refuses a name or a Kafka cluster that is registered already.
func checkNewCluster(m *federation.Map, c *federation.Cluster) error {
	if m.Clusters[c.Name] != nil {
		return federation.Errorf(federation.TopicExists, "physical cluster %q is registered already", c.Name)
	}
	for _, other := range m.Clusters {
		if c.PhysicalID != "" && other.PhysicalID == c.PhysicalID {
			return federation.Errorf(federation.TopicExists, "physical cluster %q: these brokers are registered already, as %q", c.Name, other.Name)
		}
	}
	return nil
}

// checkProfile refuses what cannot be the name of a security profile.
func checkProfile(name federation.ClusterName, profile string) error {
	if profile == "" {
		return nil
	}
	if err := security.CheckProfileName(profile); err != nil {
		return federation.Errorf(federation.InvalidArgument, "physical cluster %q: %w", name, err)
	}
	return nil
}

// probe looks at a cluster that is not in the map as it is to be there.
func (c *Controller) probe(ctx context.Context, cluster *federation.Cluster) (upstream.ClusterInfo, error) {
	name, seeds := cluster.Name, cluster.Seeds
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ProbeTimeout)
	defer cancel()
	info, err := upstream.Probe(ctx, c.cfg.Upstream, cluster)
	if refused, ok := errors.AsType[*upstream.RefusedError](err); ok {
		kind := federation.ClusterUnavailable
		if refused.Certain {
			kind = federation.InvalidArgument // to try again as it is brings nothing
		}
		return info, federation.Errorf(kind, "physical cluster %q at %v: %s", name, seeds, refused.Why).WithCause(err)
	}
	if err != nil {
		return info, federation.Errorf(federation.ClusterUnavailable,
			"physical cluster %q: no broker answers at %v within %s; check the addresses, and that they reach a Kafka listener", name, seeds, c.cfg.ProbeTimeout).WithCause(err)
	}
	if info.ClusterID == "" || len(info.Brokers) == 0 {
		return info, federation.Errorf(federation.Unsupported, "physical cluster %q: its brokers report no cluster id or no brokers; Kafka 0.10.1 or newer is needed", name)
	}
	return info, nil
}

// GetCluster returns one cluster with its health.
func (s *clusterService) GetCluster(_ context.Context, req *adminv1.GetClusterRequest) (*adminv1.GetClusterResponse, error) {
	t, cluster, err := s.c.findCluster(req.GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.GetClusterResponse{Cluster: t.clusterProto(t.current(), cluster)}, nil
}

func (c *Controller) findCluster(name string) (*term, *federation.Cluster, error) {
	t, err := c.leading()
	if err != nil {
		return nil, nil, err
	}
	id, err := parseCluster(name)
	if err != nil {
		return nil, nil, err
	}
	cluster := t.current().Clusters[id]
	if cluster == nil {
		return nil, nil, errUnknownCluster(id)
	}
	return t, cluster, nil
}

func errUnknownCluster(name federation.ClusterName) error {
	return federation.Errorf(federation.UnknownCluster, "physical cluster %q is not known; `braid cluster list` shows those that are", name)
}

// ListClusters returns a page of clusters, by name.
func (s *clusterService) ListClusters(_ context.Context, req *adminv1.ListClustersRequest) (*adminv1.ListClustersResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	m := t.current()
	clusters, next, err := page(sortedClusters(m), func(c *federation.Cluster) string { return string(c.Name) }, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.ListClustersResponse{Clusters: t.clusterProtos(m, clusters), NextPageToken: next}, nil
}

func sortedClusters(m *federation.Map) []*federation.Cluster {
	out := make([]*federation.Cluster, 0, len(m.Clusters))
	for _, c := range m.Clusters {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *federation.Cluster) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// UpdateCluster changes a cluster's seeds, weight and security profile.
func (s *clusterService) UpdateCluster(ctx context.Context, req *adminv1.UpdateClusterRequest) (*adminv1.UpdateClusterResponse, error) {
	out, err := s.c.updateCluster(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.UpdateClusterResponse{Cluster: out}, nil
}

func (c *Controller) updateCluster(ctx context.Context, req *adminv1.UpdateClusterRequest) (*adminv1.Cluster, error) {
	t, old, err := c.findCluster(req.GetCluster().GetName())
	if err != nil {
		return nil, err
	}
	if err := checkEtag(fmt.Sprintf("physical cluster %q", old.Name), req.GetCluster().GetEtag(), clusterEtag(old)); err != nil {
		return nil, err
	}
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		if len(req.GetCluster().GetBootstrap()) > 0 {
			paths = append(paths, "bootstrap")
		}
		if req.GetCluster().GetWeight() != 0 {
			paths = append(paths, "weight")
		}
		if req.GetCluster().GetSecurityProfile() != "" {
			paths = append(paths, "security_profile")
		}
	}
	changed := *old
	for _, path := range paths {
		switch path {
		case "bootstrap":
			changed.Seeds = req.GetCluster().GetBootstrap()
		case "weight":
			changed.Weight = req.GetCluster().GetWeight()
		case "security_profile":
			changed.SecurityProfile = req.GetCluster().GetSecurityProfile()
		default:
			return nil, federation.Errorf(federation.InvalidArgument, "update mask %q: only bootstrap, weight and security_profile of a cluster can be updated", path)
		}
	}
	if changed.Weight < 0 {
		return nil, federation.Errorf(federation.InvalidArgument, "physical cluster %q: weight %d is negative", old.Name, changed.Weight)
	}
	if err := c.checkReach(ctx, old, &changed); err != nil {
		return nil, err
	}
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		have := m.Clusters[old.Name]
		if have == nil {
			return nil, errUnknownCluster(old.Name)
		}
		next := *have
		next.Seeds, next.Weight, next.PhysicalID, next.SecurityProfile = changed.Seeds, changed.Weight, changed.PhysicalID, changed.SecurityProfile
		return planner.WithCluster(m, &next), nil
	})
	if err != nil {
		return nil, err
	}
	return t.clusterProto(m, m.Clusters[old.Name]), nil
}

// checkReach looks at a cluster whose addresses or profile are to change: it must be the
// same one.
func (c *Controller) checkReach(ctx context.Context, old, changed *federation.Cluster) error {
	if slices.Equal(changed.Seeds, old.Seeds) && changed.SecurityProfile == old.SecurityProfile {
		return nil
	}
	if err := checkSeeds(old.Name, changed.Seeds); err != nil {
		return err
	}
	if err := checkProfile(old.Name, changed.SecurityProfile); err != nil {
		return err
	}
	info, err := c.probe(ctx, changed)
	if err != nil {
		return err
	}
	if old.PhysicalID != "" && info.ClusterID != old.PhysicalID {
		return federation.Errorf(federation.InvalidArgument, "physical cluster %q: the new bootstrap addresses lead to another Kafka cluster", old.Name)
	}
	changed.PhysicalID = info.ClusterID
	return nil
}

// DeleteCluster takes a cluster that holds no extent out of the map.
func (s *clusterService) DeleteCluster(ctx context.Context, req *adminv1.DeleteClusterRequest) (*adminv1.DeleteClusterResponse, error) {
	t, cluster, err := s.c.findCluster(req.GetName())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	_, err = t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		if id := t.ops.movesTo(cluster.Name); id != "" {
			return nil, federation.Errorf(federation.PolicyViolation, "physical cluster %q: operation %s moves partitions there; wait for its end, or cancel it", cluster.Name, id)
		}
		return planner.WithoutCluster(m, cluster.Name)
	})
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	t.forgetAlarms(cluster.Name)
	return &adminv1.DeleteClusterResponse{}, nil
}

var clusterStates = map[federation.ClusterState]adminv1.Cluster_State{
	federation.ClusterActive:   adminv1.Cluster_STATE_ACTIVE,
	federation.ClusterDraining: adminv1.Cluster_STATE_DRAINING,
	federation.ClusterFailed:   adminv1.Cluster_STATE_FAILED,
}

func (t *term) clusterProto(m *federation.Map, c *federation.Cluster) *adminv1.Cluster {
	return t.clusterProtos(m, []*federation.Cluster{c})[0]
}

func (t *term) clusterProtos(m *federation.Map, clusters []*federation.Cluster) []*adminv1.Cluster {
	extents := make(map[federation.ClusterName]int64)
	for _, topic := range m.Topics {
		for _, p := range topic.Partitions {
			for _, e := range p.Extents {
				extents[e.Cluster]++
			}
		}
	}
	out := make([]*adminv1.Cluster, len(clusters))
	for i, c := range clusters {
		out[i] = &adminv1.Cluster{
			Name:      collectionPhysical + string(c.Name),
			Bootstrap: c.Seeds,

			SecurityProfile: c.SecurityProfile,

			State:   clusterStates[c.State],
			Extents: extents[c.Name],
			Weight:  c.Weight,
			Etag:    clusterEtag(c),
			Detail:  "not looked at yet",
		}
		if h, ok := t.health.cluster(c.Name); ok {
			out[i].Healthy, out[i].Brokers, out[i].Detail = h.healthy, h.brokers, h.detail
		}
	}
	return out
}
