package gateway

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
)

// Each call asks for the operations that its Kafka counterpart asks for. What has no
// counterpart, because it is about the physical clusters or the fleet, is an operation on
// the cluster: DESCRIBE to look, CLUSTER_ACTION or ALTER to change; ACLs and credentials
// take ALTER. Streams ask again whenever the ACLs
// have changed; one that has lost a right ends with PERMISSION_DENIED.

// access is what a call may do now.
func (g *Gateway) access(ctx context.Context, api string) acl.Access {
	a := g.deps.Authorizer
	if a == nil {
		return acl.Access{}
	}
	who := acl.Subject{Principal: security.PrincipalOf(ctx)}
	if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
		who.Host = acl.Host(info.Peer().Addr)
	}
	return a.Access(g.deps.Maps.Current(), who, api)
}

// An accessCheck is a right that a stream needs, decided again when the ACLs change.
type accessCheck struct {
	ctx context.Context //nolint:containedctx // who calls, and the trace of a denial
	g   *Gateway
	api string
	may acl.Access

	stale bool // what it is asked about has changed
}

func (g *Gateway) newAccessCheck(ctx context.Context, api string) *accessCheck {
	return &accessCheck{ctx: ctx, g: g, api: api, may: g.access(ctx, api)}
}

// changed takes the newest ACLs, and reports whether they are others than before.
func (c *accessCheck) changed() bool {
	now := c.g.deps.Authorizer.Snapshot(c.g.deps.Maps.Current())
	if now == c.may.Snapshot() {
		return false
	}
	c.may = c.g.access(c.ctx, c.api)
	return true
}

// topic refuses what is not allowed with a topic now.
func (c *accessCheck) topic(op acl.Operation, name federation.TopicName) error {
	c.changed()
	return c.may.Check(c.ctx, op, acl.Topic, string(name))
}

// subscribed refuses to join a group, and to read topics by name.
func (c *accessCheck) subscribed(sub *braidv1.Subscribe) error {
	if err := c.may.Check(c.ctx, acl.Read, acl.Group, sub.GetGroup()); err != nil {
		return err
	}
	for _, name := range sub.GetTopics() {
		if err := c.may.Check(c.ctx, acl.Read, acl.Topic, name); err != nil {
			return err
		}
	}
	return nil
}

// authorized decides again when the ACLs or the partitions have changed. A member that
// has lost a right to what it named leaves, so that another gets its partitions. Of what
// only its pattern names it reads what it may, and is told of the rest.
func (st *consumeStream) authorized() error {
	if changed := st.may.changed(); !changed && !st.may.stale || st.may.may.Snapshot() == nil {
		return nil
	}
	st.may.stale = false
	may, ctx := &st.may.may, st.may.ctx
	if err := may.Check(ctx, acl.Read, acl.Group, st.request.Group); err != nil {
		return err
	}
	for _, p := range st.s.positions {
		if p.done {
			continue
		}
		err := may.Check(ctx, acl.Read, acl.Topic, string(p.Topic))
		switch {
		case err == nil:
		case slices.Contains(st.request.Topics, p.Topic):
			return err
		default:
			st.partitionFailed(p, err)
		}
	}
	return nil
}

// mayInitProducer is Kafka's rule for producer ids: the right to write idempotently, or
// to write any topic.
func (g *Gateway) mayInitProducer(ctx context.Context, api string) error {
	may := g.access(ctx, api)
	if may.MayAny(acl.Write, acl.Topic) {
		return nil
	}
	return may.Check(ctx, acl.IdempotentWrite, acl.Cluster, federation.ACLClusterName)
}

// mayTopics refuses a call about a topic that the caller may not do op with, before it
// learns whether the topic exists.
func (g *Gateway) mayTopics(ctx context.Context, api string, op acl.Operation, names ...string) error {
	may := g.access(ctx, api)
	for _, name := range names {
		if err := may.Check(ctx, op, acl.Topic, name); err != nil {
			return err
		}
	}
	return nil
}

// maySources is mayTopics for sources to read.
func maySources[S interface{ GetTopic() string }](ctx context.Context, g *Gateway, api string, op acl.Operation, sources []S) error {
	may := g.access(ctx, api)
	for _, s := range sources {
		if err := may.Check(ctx, op, acl.Topic, s.GetTopic()); err != nil {
			return err
		}
	}
	return nil
}

// A right is an operation on a resource.
type right struct {
	op   acl.Operation
	res  acl.Resource
	name string
}

func onTopic(op acl.Operation, resourceName string) right {
	return right{op, acl.Topic, lastSegment(resourceName, "/topics/")}
}

func onGroup(op acl.Operation, resourceName string) right {
	return right{op, acl.Group, lastSegment(resourceName, "/groups/")}
}

func onCluster(op acl.Operation) right { return right{op, acl.Cluster, federation.ACLClusterName} }

// lastSegment reads the id of a resource name of a logical cluster, or takes it as the
// id, as those do who serve the call.
func lastSegment(name, collection string) string {
	if rest, ok := strings.CutPrefix(name, "logicalClusters/"); ok {
		if _, id, ok := strings.Cut(rest, collection); ok {
			return id
		}
	}
	return name
}

// adminRights says what a call of the admin services needs: any of the rights is enough.
// One that only asks what would be done changes nothing.
func adminRights(procedure string, msg any) (rights []right, changes bool) {
	rights, changes = adminTable(procedure, msg)
	if v, ok := msg.(interface{ GetValidateOnly() bool }); ok && v.GetValidateOnly() {
		changes = false
	}
	return rights, changes
}

// adminTable is the table of adminRights. A call that is not in it needs the right to look
// at the cluster, or to change it.
func adminTable(procedure string, msg any) (rights []right, changes bool) {
	switch r := msg.(type) {
	case *adminv1.CreateTopicRequest:
		name := r.GetTopicId()
		if name == "" {
			name = r.GetTopic().GetName()
		}
		return []right{onCluster(acl.Create), onTopic(acl.Create, name)}, true
	case *adminv1.GetTopicRequest:
		return []right{onTopic(acl.Describe, r.GetName())}, false
	case *adminv1.UpdateTopicRequest:
		return []right{onTopic(acl.AlterConfigs, r.GetTopic().GetName())}, true
	case *adminv1.GrowTopicRequest:
		return []right{onTopic(acl.Alter, r.GetName())}, true
	case *adminv1.DeleteTopicRequest:
		return []right{onCluster(acl.Delete), onTopic(acl.Delete, r.GetName())}, true
	case *adminv1.GetGroupRequest:
		return []right{onGroup(acl.Describe, r.GetName())}, false
	case *adminv1.DeleteGroupRequest:
		return []right{onGroup(acl.Delete, r.GetName())}, true
	case *adminv1.ResetOffsetsRequest:
		return []right{onGroup(acl.Read, r.GetName())}, true
	case *adminv1.AlterQuotasRequest:
		return []right{onCluster(acl.AlterConfigs)}, true
	case *adminv1.ListQuotasRequest:
		return []right{onCluster(acl.DescribeConfigs)}, false
	case *adminv1.AlterGroupConfigRequest:
		return []right{{acl.AlterConfigs, acl.Group, r.GetGroup()}}, !r.GetValidateOnly()
	case *adminv1.ListGroupConfigsRequest:
		return []right{onCluster(acl.DescribeConfigs)}, false
	case *adminv1.ListTopicsRequest, *adminv1.ListGroupsRequest:
		return nil, false // only what the caller may see is listed
	}
	method := procedure[strings.LastIndexByte(procedure, '/')+1:]
	for _, look := range []string{"Get", "List", "Watch"} {
		if strings.HasPrefix(method, look) {
			return []right{onCluster(acl.Describe)}, false
		}
	}
	if keepsAccess(procedure) {
		return []right{onCluster(acl.Alter)}, true
	}
	return []right{onCluster(acl.ClusterAction), onCluster(acl.Alter)}, true
}

// keepsAccess reports whether a call changes who may do what. For that, as in Kafka, it
// takes ALTER; the right to run clusters, moves and the fleet is not enough.
func keepsAccess(procedure string) bool {
	for _, service := range []string{adminv1connect.AclServiceName, adminv1connect.CredentialServiceName} {
		if strings.HasPrefix(procedure, "/"+service+"/") {
			return true
		}
	}
	return false
}

// authorizeAdmin decides about the calls of the admin services, and records changes.
func (g *Gateway) authorizeAdmin(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		procedure := r.Spec().Procedure
		rights, changes := adminRights(procedure, r.Any())
		may, err := g.mayAdmin(ctx, procedure, rights)
		if err != nil {
			return nil, rpcerror.Error(err)
		}
		res, err := g.listed(ctx, r, &may, next)
		if changes {
			about := rights[len(rights)-1]
			may.Changed(ctx, about.op, about.res, audited(about, r.Any()), err)
		}
		return res, err
	}
}

// mayAdmin checks that the caller has any of some rights.
func (g *Gateway) mayAdmin(ctx context.Context, procedure string, rights []right) (acl.Access, error) {
	if g.deps.Authorizer.Enabled() && g.deps.Maps.Current().Version == 0 {
		return acl.Access{}, federation.Errorf(federation.NoLeader, "this gateway has no map yet, so it knows no ACLs; try again, or use another one")
	}
	may := g.access(ctx, procedure)
	for i, need := range rights {
		if i == len(rights)-1 {
			return may, may.Check(ctx, need.op, need.res, need.name)
		}
		if may.Sees(need.op, need.res, need.name) {
			break
		}
	}
	return may, nil
}

// leaveOut takes out of an answer what the caller may not see.
func leaveOut(may *acl.Access, msg any) {
	if may.Snapshot() == nil {
		return
	}
	switch r := msg.(type) {
	case *adminv1.ListTopicsResponse:
		kept := r.Topics[:0]
		for _, t := range r.GetTopics() {
			if may.Sees(acl.Describe, acl.Topic, lastSegment(t.GetName(), "/topics/")) {
				withoutConfig(may, t)
				kept = append(kept, t)
			}
		}
		r.Topics = kept
	case *adminv1.GetTopicResponse:
		withoutConfig(may, r.GetTopic())
	case *adminv1.GetGroupResponse:
		withoutTopics(may, r.GetGroup())
	case *adminv1.ListGroupsResponse:
		if may.Sees(acl.Describe, acl.Cluster, federation.ACLClusterName) {
			return
		}
		kept := r.Groups[:0]
		for _, group := range r.GetGroups() {
			if may.Sees(acl.Describe, acl.Group, lastSegment(group.GetName(), "/groups/")) {
				kept = append(kept, group)
			}
		}
		r.Groups = kept
	}
}

func withoutConfig(may *acl.Access, t *adminv1.Topic) {
	if t != nil && !may.Sees(acl.DescribeConfigs, acl.Topic, lastSegment(t.GetName(), "/topics/")) {
		t.Config = nil
	}
}

// withoutTopics takes out of a group what is of topics that the caller may not describe, as
// OffsetFetch does for Kafka clients.
func withoutTopics(may *acl.Access, group *adminv1.Group) {
	hidden := func(topic string) bool { return !may.Sees(acl.Describe, acl.Topic, topic) }
	group.Lag = slices.DeleteFunc(group.GetLag(), func(l *adminv1.Group_PartitionLag) bool { return hidden(l.GetTopic()) })
	for _, m := range group.GetMembers() {
		m.Partitions = slices.DeleteFunc(m.GetPartitions(), func(tp string) bool { return hidden(tp[:strings.LastIndexByte(tp, '-')]) })
	}
}

// forwardedACLs has a change of ACLs answered when this gateway decides by it.
type forwardedACLs struct {
	adminv1connect.AclServiceClient
	g *Gateway
}

func (f *forwardedACLs) CreateAcls(ctx context.Context, r *adminv1.CreateAclsRequest) (*adminv1.CreateAclsResponse, error) {
	res, err := f.AclServiceClient.CreateAcls(ctx, r)
	f.g.awaitVersion(ctx, federation.MapVersion(res.GetMapVersion()))
	return res, err
}

func (f *forwardedACLs) DeleteAcls(ctx context.Context, r *adminv1.DeleteAclsRequest) (*adminv1.DeleteAclsResponse, error) {
	res, err := f.AclServiceClient.DeleteAcls(ctx, r)
	f.g.awaitVersion(ctx, federation.MapVersion(res.GetMapVersion()))
	return res, err
}

// forwardedQuotas is likewise.
type forwardedQuotas struct {
	adminv1connect.QuotaServiceClient
	g *Gateway
}

func (f *forwardedQuotas) AlterQuotas(ctx context.Context, r *adminv1.AlterQuotasRequest) (*adminv1.AlterQuotasResponse, error) {
	res, err := f.QuotaServiceClient.AlterQuotas(ctx, r)
	f.g.awaitVersion(ctx, federation.MapVersion(res.GetMapVersion()))
	return res, err
}

// forwardedGroupConfigs is likewise. What a group may set is this gateway's to know.
type forwardedGroupConfigs struct {
	adminv1connect.GroupConfigServiceClient
	g *Gateway
}

func (f *forwardedGroupConfigs) AlterGroupConfig(ctx context.Context, r *adminv1.AlterGroupConfigRequest) (*adminv1.AlterGroupConfigResponse, error) {
	change := &federation.GroupConfigChange{GroupID: federation.GroupID{Group: r.GetGroup()}, Set: r.GetSet(), Remove: r.GetRemove()}
	if err := f.g.deps.GroupSettings.CheckChange(f.g.deps.Maps.Current(), change); err != nil {
		return nil, err
	}
	res, err := f.GroupConfigServiceClient.AlterGroupConfig(ctx, r)
	f.g.awaitVersion(ctx, federation.MapVersion(res.GetMapVersion()))
	return res, err
}

// awaitVersion waits for a version of the map, as long as a call may take.
func (g *Gateway) awaitVersion(ctx context.Context, version federation.MapVersion) {
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	for {
		changed := g.deps.Maps.Changed()
		if g.deps.Maps.Current().Version >= version {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
