package federation

import (
	"reflect"
	"slices"
	"sync"
)

// A Split is a map seen as the logical clusters that are in it. Views are made when
// somebody looks at them, and from then on with each change: a gateway has those of the
// tenants that its clients come for. It is safe for concurrent use.
type Split struct {
	base  *Map
	whose splitIndex
	views map[string]*splitView // of those that were looked at in the last one

	mu    sync.Mutex // guards the following
	late  map[string]*splitView
	bound map[string]*Map // of those that BoundOf was asked for
}

// A splitIndex is what belongs to each tenant, by its name.
type splitIndex struct {
	topics      map[string][]*Topic // under qualified names
	credentials map[string]map[CredentialID]*Credential
	acls        map[string]ACLs
	quotas      map[string]Quotas
	groups      map[string]GroupConfigs
}

// A splitView is the map of one logical cluster.
type splitView struct {
	m      *Map
	base   *Map              // of which it was made
	topics map[*Topic]*Topic // with qualified names, to plain ones
}

// SplitMap splits a map. What is the same in the last one is taken over; prev may be nil.
// Who has compiled ACLs or quotas knows them by their address.
func SplitMap(m *Map, prev *Split) *Split {
	s := &Split{base: m, views: make(map[string]*splitView)}
	if len(m.Tenants) == 0 {
		s.views[""] = &splitView{m: m}
		return s
	}
	if prev == nil || len(prev.base.Tenants) == 0 {
		prev = &Split{base: &Map{}}
	}
	s.index(prev)
	s.views[""] = s.view("", prev.views[""])
	for tenant, old := range prev.views {
		if m.Tenants[tenant] != nil {
			s.views[tenant] = s.view(tenant, old)
		}
	}
	prev.mu.Lock()
	defer prev.mu.Unlock()
	for tenant, old := range prev.late {
		if m.Tenants[tenant] != nil {
			s.views[tenant] = s.view(tenant, old)
		}
	}
	return s
}

// index finds out what belongs to whom.
func (s *Split) index(prev *Split) {
	s.whose = prev.whose
	if !sameMap(prev.base.Topics, s.base.Topics) {
		s.whose.topics = make(map[string][]*Topic, len(s.base.Tenants)+1)
		for name, t := range s.base.Topics {
			tenant, _ := name.Split()
			list := s.whose.topics[tenant]
			if list == nil {
				list = make([]*Topic, 0, max(1, len(prev.whose.topics[tenant])))
			}
			s.whose.topics[tenant] = append(list, t)
		}
	}
	// Whose user a name is depends on the tenants that there are.
	if !sameMap(prev.base.Credentials, s.base.Credentials) || !sameMap(prev.base.Tenants, s.base.Tenants) {
		s.whose.credentials = make(map[string]map[CredentialID]*Credential)
		for id, c := range s.base.Credentials {
			tenant, user := s.base.SplitUser(id.User)
			if tenant != "" {
				plain := *c
				plain.User = user
				c = &plain
			}
			put(s.whose.credentials, tenant, c.CredentialID, c)
		}
	}
	if !sameMap(prev.base.ACLs, s.base.ACLs) {
		s.whose.acls = make(map[string]ACLs)
		for id, a := range s.base.ACLs {
			tenant := a.Tenant
			if tenant != "" {
				plain := *a
				plain.Tenant = ""
				id, a = plain.ID(), &plain
			}
			put(s.whose.acls, tenant, id, a)
		}
	}
	if !sameMap(prev.base.Quotas, s.base.Quotas) {
		s.whose.quotas = make(map[string]Quotas)
		for e, q := range s.base.Quotas {
			tenant := e.Tenant
			if tenant != "" {
				plain := *q
				e.Tenant, plain.Entity.Tenant = "", ""
				q = &plain
			}
			put(s.whose.quotas, tenant, e, q)
		}
	}
	if !sameMap(prev.base.GroupConfigs, s.base.GroupConfigs) {
		s.whose.groups = make(map[string]GroupConfigs)
		for id, c := range s.base.GroupConfigs {
			plain := GroupID{Group: id.Group}
			put(s.whose.groups, id.Tenant, plain, &GroupConfig{GroupID: plain, Values: c.Values})
		}
	}
}

func put[M ~map[K]V, K comparable, V any](by map[string]M, tenant string, key K, value V) {
	if by[tenant] == nil {
		by[tenant] = make(M)
	}
	by[tenant][key] = value
}

// view makes the view of a logical cluster; old is its last one, or nil.
func (s *Split) view(tenant string, old *splitView) *splitView {
	m := *s.base
	m.Tenants, m.ACLs, m.Quotas, m.GroupConfigs = nil, s.whose.acls[tenant], s.whose.quotas[tenant], s.whose.groups[tenant]
	if t := s.base.Tenants[tenant]; t != nil {
		m.LogicalCluster, m.ClusterID = t.Name, t.ClusterID
	}
	v := &splitView{m: &m, base: s.base}
	if old == nil {
		old = &splitView{m: &Map{}, base: &Map{}}
	}
	s.viewTopics(v, old, s.whose.topics[tenant])
	if m.Credentials = s.whose.credentials[tenant]; sameMap(m.Credentials, old.m.Credentials) {
		m.iterations = old.m.iterations
	} else {
		m.iterations = iterationsOf(m.Credentials)
	}
	if len(old.base.Gateways) > 0 && len(old.base.Gateways) == len(s.base.Gateways) && &old.base.Gateways[0] == &s.base.Gateways[0] {
		m.Gateways, m.byNodeID = old.m.Gateways, old.m.byNodeID
		return v
	}
	m.Gateways, m.byNodeID = slices.Clone(m.Gateways), make(map[NodeID]*Gateway, len(m.Gateways))
	for i, g := range m.Gateways {
		if g.TenantKafka != "" {
			plain := *g
			if a := g.TenantKafka.Of(tenant); a != "" {
				plain.KafkaAddress = a
			}
			plain.TenantKafka = ""
			g = &plain
		}
		m.Gateways[i], m.byNodeID[g.NodeID] = g, g
	}
	return v
}

// viewTopics gives a view its topics under plain names.
func (s *Split) viewTopics(v, old *splitView, topics []*Topic) {
	same := sameMap(old.base.Topics, s.base.Topics)
	if !same && len(topics) == len(old.topics) && old.topics != nil {
		same = !slices.ContainsFunc(topics, func(t *Topic) bool { return old.topics[t] == nil })
	}
	if same && old.topics != nil {
		v.topics, v.m.Topics, v.m.byTopicID = old.topics, old.m.Topics, old.m.byTopicID
		return
	}
	v.topics = make(map[*Topic]*Topic, len(topics))
	v.m.Topics, v.m.byTopicID = make(map[TopicName]*Topic, len(topics)), make(map[TopicID]*Topic, len(topics))
	for _, t := range topics {
		out := old.topics[t]
		if out == nil {
			if _, plain := t.Name.Split(); plain == t.Name {
				out = t
			} else {
				out = t.named(plain)
			}
		}
		v.topics[t], v.m.Topics[out.Name], v.m.byTopicID[out.ID] = out, out, out
	}
}

// sameMap reports whether two maps of the language are one.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// named returns the topic under another name.
func (t *Topic) named(name TopicName) *Topic {
	out := *t
	out.Name, out.Partitions = name, make([]*Partition, len(t.Partitions))
	for i, p := range t.Partitions {
		part := *p
		part.Topic = name
		out.Partitions[i] = &part
	}
	return &out
}

// Base is the map that was split.
func (s *Split) Base() *Map { return s.base }

// Of returns the map of a tenant, and whether there is one that is served; the empty
// tenant is the deployment's own logical cluster. Of a tenant that is not there it is an
// empty map.
func (s *Split) Of(tenant string) (*Map, bool) {
	if tenant == "" {
		return s.views[""].m, true
	}
	t := s.base.Tenants[tenant]
	if t == nil {
		v := *s.base
		v.LogicalCluster, v.ClusterID, v.Tenants = tenant, "", nil
		v.Topics, v.Credentials, v.ACLs, v.Quotas, v.GroupConfigs = make(map[TopicName]*Topic), nil, nil, nil, nil
		v.Gateways = slices.Clone(v.Gateways) // Seal sorts
		return v.Seal(), false
	}
	v := s.views[tenant]
	if v == nil {
		v = s.lately(tenant)
	}
	return v.m, !t.Deleting
}

// lately returns the view of a tenant that nobody has looked at in the last map.
func (s *Split) lately(tenant string) *splitView {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.late[tenant]
	if v == nil {
		if s.late == nil {
			s.late = make(map[string]*splitView)
		}
		v = s.view(tenant, nil)
		s.late[tenant] = v
	}
	return v
}

// BoundOf is Of for clients that belong to a tenant only by the address that they came to:
// gateways that have none of the tenant's own have no Kafka address there. At the common
// one, such a client would be another logical cluster's.
func (s *Split) BoundOf(tenant string) (*Map, bool) {
	m, served := s.Of(tenant)
	if tenant == "" || !slices.ContainsFunc(s.base.Gateways, func(g *Gateway) bool { return g.TenantKafka.Of(tenant) == "" }) {
		return m, served
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.bound[tenant]; have != nil {
		return have, served
	}
	out := *m
	out.Gateways = slices.Clone(m.Gateways)
	out.byNodeID = make(map[NodeID]*Gateway, len(m.Gateways))
	for i, g := range m.Gateways {
		if s.base.Gateways[i].TenantKafka.Of(tenant) == "" {
			plain := *g
			plain.KafkaAddress = ""
			out.Gateways[i] = &plain
		}
		out.byNodeID[g.NodeID] = out.Gateways[i]
	}
	if s.bound == nil {
		s.bound = make(map[string]*Map)
	}
	if s.base.Tenants[tenant] != nil { // of others there could be any number
		s.bound[tenant] = &out
	}
	return &out, served
}
