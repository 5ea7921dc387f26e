package groups

import (
	"context"
	"sort"
	"strings"
	"time"

	"github.com/braidmq/braid/federation"
)

// ClusterConfig says how a Cluster reaches the other gateways.
type ClusterConfig struct {
	Engine *Engine
	// Dial returns the peer at another gateway; it keeps and closes connections itself.
	Dial func(ctx context.Context, gateway *federation.Gateway) (Peer, error)
	// RetryMin and RetryMax bound the pause before another attempt to reach a
	// coordinator, which doubles each time; 20 ms and 500 ms by default.
	RetryMin, RetryMax time.Duration
	// FindTimeout bounds the search for the coordinator by one call, or for a new
	// member; 5 s by default. A member that has joined searches for its session timeout.
	FindTimeout time.Duration
}

// A Cluster is the Coordinator of all groups, wherever they are coordinated: it asks
// the engine of this gateway or relays to the one that the map names. Committed offsets
// it reads here. The classic
// protocol's methods serve the groups of this gateway only: a Kafka client is told
// where to go.
type Cluster struct {
	*Engine
	cfg ClusterConfig
}

var _ Coordinator = (*Cluster)(nil)

// NewCluster makes a Cluster.
func NewCluster(cfg ClusterConfig) *Cluster {
	if cfg.RetryMin == 0 {
		cfg.RetryMin = 20 * time.Millisecond
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = 500 * time.Millisecond
	}
	if cfg.FindTimeout == 0 {
		cfg.FindTimeout = 5 * time.Second
	}
	return &Cluster{Engine: cfg.Engine, cfg: cfg}
}

// relayed is what a coordinator does for members of other gateways.
type relayed interface {
	Subscribe(ctx context.Context, r SubscribeRequest) (Membership, error)
	Commit(ctx context.Context, r CommitRequest) ([]error, error)
	DeleteOffsets(ctx context.Context, group string, tps []federation.TopicPartition) ([]error, error)
	Describe(ctx context.Context, group string) (Description, error)
	Delete(ctx context.Context, group string) error
	List(ctx context.Context) ([]Listing, error)
	Leave(ctx context.Context, group string, members []LeavingMember) ([]error, error)
}

// at returns the coordinator at a gateway.
func (c *Cluster) at(ctx context.Context, gw *federation.Gateway) (relayed, error) {
	if gw.ID == c.Engine.cfg.Gateway {
		return c.Engine, nil
	}
	peer, err := c.cfg.Dial(ctx, gw)
	if err != nil {
		return nil, errPeer("", err)
	}
	return NewRemote(peer, c.Engine.cfg.Maps.Current().LogicalCluster, c.Engine.cfg.EventsMax), nil
}

// find returns the coordinator of a group by the present map, and its gateway.
func (c *Cluster) find(ctx context.Context, group string) (relayed, federation.GatewayID, error) {
	gw := c.Engine.cfg.Maps.Current().GroupGateway(group)
	if gw == nil {
		return nil, "", federation.Errorf(federation.NotCoordinator, "group %q: no gateway that serves consumers is ready", group)
	}
	r, err := c.at(ctx, gw)
	return r, gw.ID, err
}

// elsewhere reports whether another attempt, perhaps at another gateway, can help.
func elsewhere(err error) bool {
	switch federation.KindOf(err) {
	case federation.NotCoordinator, federation.CoordinatorLoading, federation.StoreUnavailable:
		return true
	default:
		return false
	}
}

// backoff waits between attempts.
type backoff struct {
	next, most time.Duration
}

func (c *Cluster) backoff() backoff { return backoff{next: c.cfg.RetryMin, most: c.cfg.RetryMax} }

// wait pauses; it is false if ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	timer := time.NewTimer(b.next)
	defer timer.Stop()
	b.next = min(2*b.next, b.most)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retry does something at the coordinator of a group until it is the coordinator
// that answers.
func (c *Cluster) retry(ctx context.Context, group string, do func(context.Context, relayed) error) error {
	find, cancel := context.WithTimeout(ctx, c.cfg.FindTimeout)
	defer cancel()
	for pause := c.backoff(); ; {
		r, _, err := c.find(find, group)
		if err == nil {
			err = do(ctx, r)
		}
		if final(err) || !pause.wait(find) {
			return err
		}
	}
}

// Commit stores offsets at the coordinator.
func (c *Cluster) Commit(ctx context.Context, r CommitRequest) (errs []error, err error) {
	err = c.retry(ctx, r.Group, func(ctx context.Context, at relayed) error {
		errs, err = at.Commit(ctx, r)
		return err
	})
	return errs, err
}

// Committed reads stored offsets. They need no coordinator, only the store.
func (c *Cluster) Committed(ctx context.Context, group string, tps []federation.TopicPartition) ([]CommittedOffset, error) {
	find, cancel := context.WithTimeout(ctx, c.cfg.FindTimeout)
	defer cancel()
	for pause := c.backoff(); ; {
		offsets, err := c.Engine.Committed(ctx, group, tps)
		if final(err) || !pause.wait(find) {
			return offsets, err
		}
	}
}

// DeleteOffsets deletes offsets at the coordinator.
func (c *Cluster) DeleteOffsets(ctx context.Context, group string, tps []federation.TopicPartition) (errs []error, err error) {
	err = c.retry(ctx, group, func(ctx context.Context, at relayed) error {
		errs, err = at.DeleteOffsets(ctx, group, tps)
		return err
	})
	return errs, err
}

// Describe asks the coordinator.
func (c *Cluster) Describe(ctx context.Context, group string) (d Description, err error) {
	err = c.retry(ctx, group, func(ctx context.Context, at relayed) error {
		d, err = at.Describe(ctx, group)
		return err
	})
	return d, err
}

// Delete asks the coordinator.
func (c *Cluster) Delete(ctx context.Context, group string) error {
	return c.retry(ctx, group, func(ctx context.Context, at relayed) error { return at.Delete(ctx, group) })
}

// Leave removes members, of either kind, at the coordinator.
func (c *Cluster) Leave(ctx context.Context, group string, members []LeavingMember) (errs []error, err error) {
	err = c.retry(ctx, group, func(ctx context.Context, at relayed) error {
		errs, err = at.Leave(ctx, group, members)
		return err
	})
	return errs, err
}

// List asks all gateways that coordinate groups.
func (c *Cluster) List(ctx context.Context) ([]Listing, error) {
	found := map[string]Listing{}
	for _, gw := range c.Engine.cfg.Maps.Current().Gateways {
		if gw.State != federation.GatewayReady || !gw.Role.Serves(federation.RoleConsume) {
			continue
		}
		at, err := c.at(ctx, gw)
		if err != nil {
			return nil, err
		}
		part, err := at.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, l := range part {
			found[l.Group] = l
		}
	}
	all := make([]Listing, 0, len(found))
	for _, l := range found {
		all = append(all, l)
	}
	sort.Slice(all, func(i, j int) bool { return strings.Compare(all[i].Group, all[j].Group) < 0 })
	return all, nil
}

// Subscribe makes a Connect stream a member. The Membership survives a change of
// coordinator, without a rebalance, if the new one is found within the session timeout.
func (c *Cluster) Subscribe(ctx context.Context, r SubscribeRequest) (Membership, error) {
	if r.SessionTimeout == 0 {
		r.SessionTimeout = c.Engine.cfg.ConnectSessionTimeout
	}
	m := newCarried(c, r)
	find, cancel := context.WithTimeout(ctx, c.cfg.FindTimeout)
	defer cancel()
	for pause := c.backoff(); ; {
		err := m.connect(ctx, find)
		if err == nil {
			break
		}
		if final(err) || !pause.wait(find) {
			return nil, err
		}
	}
	go m.run(ctx)
	return m, nil
}
