//go:build synctests

package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/check"
)

const (
	parent = "logicalClusters/default"
	// operationLimit bounds how long an operation may go on when the faults are over.
	operationLimit = 3 * time.Minute
	partitionsMax  = 9
)

// An operator calls the admin API by any gateway.
type operator struct {
	*world
	client *connectClient
	rng    *rand.Rand
	name   string
	asked  int
	made   []target
}

func (w *world) operator(name string, rng *rand.Rand) *operator {
	return &operator{world: w, client: w.connectClient(name, 0), rng: rng, name: name}
}

func (o *operator) topics() adminv1connect.TopicServiceClient {
	return adminv1connect.NewTopicServiceClient(o.client.http, o.client.url())
}

func (o *operator) clusters() adminv1connect.ClusterServiceClient {
	return adminv1connect.NewClusterServiceClient(o.client.http, o.client.url())
}

func (o *operator) operations() adminv1connect.OperationServiceClient {
	return adminv1connect.NewOperationServiceClient(o.client.http, o.client.url())
}

// A target is a topic that operators work on.
type target struct {
	*logical
	topic string
}

// resource is its resource name.
func (t target) resource() string { return t.parent() + "/topics/" + t.topic }

func (t target) String() string { return t.label(t.topic) }

// call repeats a call that can be repeated, by whatever gateway answers, until it is
// decided or ctx ends.
func (o *operator) call(ctx context.Context, do func(context.Context) error) error {
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(call)
		cancel()
		if err == nil || ctx.Err() != nil || !undecided(err) {
			return err
		}
		o.client.gateway++
		wait(ctx, 100*time.Millisecond)
	}
}

// undecided reports whether an error says nothing of what became of a call.
func undecided(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeUnknown, connect.CodeInternal:
		return true
	default:
		return false
	}
}

// asFleet shows the fleet's token with each call.
type asFleet struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (a asFleet) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+fleetToken)
	return a.next.RoundTrip(r)
}

// register makes the physical clusters known to a controller.
func (o *operator) register(ctx context.Context) error {
	ordinary := *o.client
	defer func() { o.client.http, o.client.urls = ordinary.http, ordinary.urls }()
	o.client.http = &http.Client{Transport: asFleet{ordinary.http.Transport}}
	o.client.urls = []string{o.controllers[0].url(), o.controllers[1].url()}
	for _, name := range clusterNames {
		err := o.call(ctx, func(ctx context.Context) error {
			_, err := o.clusters().CreateCluster(ctx, &adminv1.CreateClusterRequest{Cluster: &adminv1.Cluster{Name: "physicalClusters/" + name, Bootstrap: o.kafka[name].Seeds()}})
			if connect.CodeOf(err) == connect.CodeAlreadyExists {
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("register cluster %s: %w", name, err)
		}
	}
	return nil
}

// A started operation.
type started struct {
	what, name string
}

// begin asks for an operation until it has begun or is refused.
func (o *operator) begin(ctx context.Context, what string, ask func(ctx context.Context, id string) (string, error)) *started {
	o.asked++
	id := fmt.Sprint(o.name, "-", o.asked)
	var name string
	err := o.call(ctx, func(ctx context.Context) (err error) {
		name, err = ask(ctx, id)
		return err
	})
	if err != nil {
		o.history.note("%s: %s is refused: %v", o.name, what, err)
		o.history.count("operations refused", 1)
		switch connect.CodeOf(err) {
		case connect.CodeFailedPrecondition, connect.CodeAborted, connect.CodeAlreadyExists, connect.CodeResourceExhausted, connect.CodeInvalidArgument:
			// Another operation is at work, or a cluster is draining.
		default:
			if ctx.Err() == nil {
				o.history.problem("%s is refused: %v", what, err)
			}
		}
		return nil
	}
	if name == "" {
		o.history.note("%s: %s: nothing to do", o.name, what)
		return nil
	}
	o.history.note("%s: %s begins as %s", o.name, what, name)
	o.history.count("operations", 1)
	return &started{what, name}
}

// await waits for the end of an operation, and reports whether it ended well.
func (o *operator) await(ctx context.Context, s *started) bool {
	if s == nil {
		return false
	}
	for ctx.Err() == nil {
		var op *adminv1.Operation
		err := o.call(ctx, func(ctx context.Context) error {
			response, err := o.operations().GetOperation(ctx, &adminv1.GetOperationRequest{Name: s.name})
			op = response.GetOperation()
			return err
		})
		if err != nil {
			if ctx.Err() == nil {
				o.history.problem("%s (%s) is lost: %v", s.what, s.name, err)
			}
			return false
		}
		if op.GetDone() {
			o.history.note("%s: %s ends: %d %s", o.name, s.what, op.GetErrorCode(), op.GetErrorMessage())
			o.history.count("operations ended", 1)
			switch code := connect.Code(op.GetErrorCode()); {
			case code == 0:
			case op.GetErrorMessage() == "" || code == connect.CodeInternal || code == connect.CodeUnknown:
				o.history.problem("%s (%s) ends with an unclear error: %d %q", s.what, s.name, code, op.GetErrorMessage())
			default:
				o.history.count("operations failed", 1)
			}
			return op.GetErrorCode() == 0
		}
		wait(ctx, 50*time.Millisecond)
	}
	return false
}

// createTopic creates a topic and waits for it.
func (o *operator) createTopic(ctx context.Context, l *logical, name string, count int32, config map[string]string) bool {
	return o.await(ctx, o.begin(ctx, "create "+l.label(name), func(ctx context.Context, id string) (string, error) {
		r, err := o.topics().CreateTopic(ctx, &adminv1.CreateTopicRequest{Parent: l.parent(), TopicId: name, Topic: &adminv1.Topic{PartitionCount: count, Config: config}, RequestId: id, NoWait: true})
		return r.GetOperation(), err
	}))
}

// work runs operations until producing ends; those that run then may go on until ctx
// ends. faulty is called when one begins, so that faults fall into it.
func (o *operator) work(ctx, producing context.Context, faulty func()) {
	for producing.Err() == nil {
		wait(producing, time.Duration(o.rng.Int64N(int64(2*time.Second))))
		if producing.Err() != nil {
			return
		}
		faulty()
		if o.failing() && o.rng.IntN(4) == 0 {
			o.failover(ctx, producing, faulty)
			continue
		}
		if o.tenants() > 0 && o.rng.IntN(10) == 0 {
			o.guest(ctx, producing, faulty)
			continue
		}
		kind := o.rng.IntN(10)
		if o.focused() && o.rng.IntN(4) > 0 {
			kind = 9
		}
		switch kind {
		case 0:
			l, name := o.anyLogical(), fmt.Sprintf("%s-%d", o.name, len(o.made))
			if o.createTopic(ctx, l, name, 3, nil) {
				o.made = append(o.made, target{l, name})
			}
		case 1:
			o.grow(ctx)
		case 2, 3:
			o.expand(ctx)
		case 4, 5:
			o.drain(ctx)
		default:
			o.move(ctx, producing)
		}
	}
}

// anyLogical is that of the next operation.
func (o *operator) anyLogical() *logical {
	if len(o.logicals) == 1 {
		return o.logicals[0]
	}
	return pick(o.rng, o.logicals)
}

// anyTopic is mostly one that is written to.
func (o *operator) anyTopic() (t target, count int32) {
	if i := o.rng.IntN(4 + len(o.made)); i < len(o.made) {
		return o.made[i], 3
	}
	l := o.anyLogical()
	return target{l, topic}, l.partitions.Load()
}

func (o *operator) grow(ctx context.Context) {
	l := o.anyLogical()
	count := min(l.partitions.Load()+1, partitionsMax)
	if o.await(ctx, o.begin(ctx, fmt.Sprint("grow ", l.label(topic), " to ", count), func(ctx context.Context, id string) (string, error) {
		r, err := o.topics().GrowTopic(ctx, &adminv1.GrowTopicRequest{Name: target{l, topic}.resource(), PartitionCount: count, RequestId: id, NoWait: true})
		if connect.CodeOf(err) == connect.CodeInvalidArgument {
			return "", nil // it has as many
		}
		return r.GetOperation(), err
	})) {
		l.partitions.Store(max(count, l.partitions.Load()))
	}
}

func (o *operator) expand(ctx context.Context) {
	t, _ := o.anyTopic()
	o.await(ctx, o.begin(ctx, "expand "+t.String(), func(ctx context.Context, id string) (string, error) {
		r, err := o.topics().ExpandTopic(ctx, &adminv1.ExpandTopicRequest{Name: t.resource(), RequestId: id, NoWait: true})
		return r.GetOperation(), err
	}))
}

func (o *operator) move(ctx, producing context.Context) {
	t, count := o.anyTopic()
	to := clusterNames[o.rng.IntN(len(clusterNames))]
	moving := make([]int32, 0, count)
	for p := range count {
		if o.rng.IntN(2) == 0 {
			moving = append(moving, p)
		}
	}
	if len(moving) == 0 {
		moving = append(moving, o.rng.Int32N(count))
	}
	cancelled, after := o.rng.IntN(8) == 0, time.Duration(o.rng.Int64N(int64(300*time.Millisecond)))
	s := o.begin(ctx, fmt.Sprintf("move %s %v to %s", t, moving, to), func(ctx context.Context, id string) (string, error) {
		r, err := o.topics().MovePartitions(ctx, &adminv1.MovePartitionsRequest{Name: t.resource(), Partitions: moving, PhysicalCluster: to, RequestId: id, NoWait: true})
		return r.GetOperation(), err
	})
	if s != nil && cancelled {
		wait(producing, after)
		_ = o.call(ctx, func(ctx context.Context) error {
			_, err := o.operations().CancelOperation(ctx, &adminv1.CancelOperationRequest{Name: s.name})
			return err
		})
		o.history.note("%s: cancelled %s", o.name, s.name)
	}
	o.await(ctx, s)
}

// drain empties a cluster and restores it.
func (o *operator) drain(ctx context.Context) {
	cluster := clusterNames[o.rng.IntN(len(clusterNames))]
	if o.failedCluster.Load() == cluster {
		return // its restore is another one's
	}
	name := "physicalClusters/" + cluster
	o.await(ctx, o.begin(ctx, "drain "+name, func(ctx context.Context, id string) (string, error) {
		r, err := o.clusters().DrainCluster(ctx, &adminv1.DrainClusterRequest{Name: name, RequestId: id, NoWait: true})
		return r.GetOperation(), err
	}))
	err := o.call(ctx, func(ctx context.Context) error {
		_, err := o.clusters().RestoreCluster(ctx, &adminv1.RestoreClusterRequest{Name: name})
		return err
	})
	o.history.note("%s: restored %s: %v", o.name, name, err)
}

// watchStatus watches the map's version.
func (o *operator) watchStatus(ctx context.Context) {
	versions := make(check.Growing)
	alarms := make(map[string]bool)
	for ctx.Err() == nil {
		wait(ctx, 300*time.Millisecond)
		call, cancel := context.WithTimeout(ctx, callTimeout)
		status, err := adminv1connect.NewFleetServiceClient(o.client.http, o.client.url()).GetStatus(call, &adminv1.GetStatusRequest{})
		cancel()
		o.client.gateway++
		if err != nil {
			continue
		}
		unsure := func(alarm string) bool { return strings.Contains(alarm, "may be old") }
		if slices.ContainsFunc(status.GetAlarms(), unsure) {
			continue
		}
		if problem := versions.See("the map version", status.GetMapVersion()); problem != "" {
			o.history.problem("%s", problem)
		}
		for _, a := range status.GetAlarms() {
			if !alarms[a] {
				alarms[a] = true
				o.history.note("alarm: %s", a)
			}
		}
	}
}

// settle checks that all operations have ended, and no head is left half way, and
// returns how many heads have moved.
func (o *operator) settle(ctx context.Context) (moved int) {
	var running []string
	o.poll(ctx, operationLimit, func(ctx context.Context) (bool, error) {
		r, err := o.operations().ListOperations(ctx, &adminv1.ListOperationsRequest{PageSize: 1000})
		running = nil
		for _, op := range r.GetOperations() {
			if !op.GetDone() {
				running = append(running, fmt.Sprint(op.GetName(), " ", op.GetKind(), " ", op.GetTarget(), " ", op.GetSteps()))
			}
		}
		return len(running) == 0, err
	}, func(err error) { o.history.problem("operations do not end: %v %v", running, err) })
	var stuck []string
	targets := slices.Clone(o.made)
	for _, l := range o.logicals {
		targets = append(targets, target{l, topic})
	}
	for _, t := range targets {
		var heads int
		var chains []string
		o.poll(ctx, 10*time.Second, func(ctx context.Context) (bool, error) {
			r, err := o.topics().ListExtents(ctx, &adminv1.ListExtentsRequest{Parent: t.resource()})
			stuck, chains, heads = nil, nil, 0
			for _, p := range r.GetPartitions() {
				heads += len(p.GetExtents()) - 1
				head := p.GetExtents()[len(p.GetExtents())-1]
				if head.GetState() != adminv1.Extent_STATE_OPEN {
					stuck = append(stuck, fmt.Sprint(head.GetName(), " ", head.GetState()))
				}
				o.checkChain(t.String(), p)
				chains = append(chains, fmt.Sprint("chain of ", t, " ", p))
			}
			return len(stuck) == 0, err
		}, func(err error) { o.history.problem("heads are left half way: %v %v", stuck, err) })
		moved += heads
		for _, c := range chains {
			o.history.note("%s", c)
		}
	}
	o.history.count("heads moved", moved)
	return moved
}

// checkChain checks the extents of a partition.
func (o *operator) checkChain(name string, p *adminv1.Partition) {
	var places []string
	for i, e := range p.GetExtents() {
		place := fmt.Sprint(e.GetPhysicalCluster(), " ", e.GetPhysicalTopic(), " ", e.GetPhysicalPartition())
		if slices.Contains(places, place) {
			o.history.problem("%s partition %d lies in %s twice", name, p.GetPartition(), place)
		}
		places = append(places, place)
		if e.GetState() == adminv1.Extent_STATE_SUSPENDED {
			o.history.problem("%s partition %d: extent %d is still suspended", name, p.GetPartition(), i)
		}
		if i == 0 {
			continue
		}
		if err := o.chainGap(p.GetExtents()[i-1].GetSealedEnd(), e.GetLogicalBase()); err != nil {
			o.history.problem("%s partition %d: extent %d %v", name, p.GetPartition(), i-1, err)
		}
	}
}

// poll asks until the answer is yes, by any gateway.
func (o *operator) poll(ctx context.Context, limit time.Duration, ask func(context.Context) (bool, error), failed func(error)) {
	var last error
	if !poll(ctx, limit, func() bool {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		ok, err := ask(call)
		if last = err; err != nil {
			o.client.gateway++
		}
		return ok && err == nil
	}) {
		failed(last)
	}
}
