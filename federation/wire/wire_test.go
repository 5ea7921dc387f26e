package wire_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/wire"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// newMap returns an empty map of version 1 with clusters a, b and c.
func newMap() *federation.Map {
	m := &federation.Map{
		LogicalCluster:  "default",
		ClusterID:       "braid-cluster-id",
		Version:         1,
		FleetGeneration: 3,
		Clusters:        map[federation.ClusterName]*federation.Cluster{},
		Topics:          map[federation.TopicName]*federation.Topic{},
	}
	for i, n := range []federation.ClusterName{"a", "b", "c"} {
		m.Clusters[n] = &federation.Cluster{
			Name: n, Seeds: []string{fmt.Sprintf("127.0.0.1:%d", 9000+i)}, State: federation.ClusterActive, Weight: 100, PhysicalID: "id-" + string(n), SecurityProfile: "profile-" + string(n),
		}
	}
	return m.Seal()
}

// newTopic returns a topic whose partitions have chains of one to three extents.
func newTopic(r *rand.Rand, name string, partitions int) *federation.Topic {
	t := &federation.Topic{
		Name: federation.TopicName(name), ID: federation.NewTopicID(), ReplicationFactor: 1, Generation: int32(r.IntN(9)),
		CreatedMs: r.Int64N(1 << 40), Config: map[string]string{"retention.ms": strconv.Itoa(r.IntN(1000))},
		Clusters: []federation.ClusterName{"a", "b", "c"},
	}
	for i := range partitions {
		p := &federation.Partition{Topic: t.Name, Number: federation.LogicalPartition(i)}
		for j := range 1 + r.IntN(3) {
			addExtent(r, t, p, j)
		}
		t.Partitions = append(t.Partitions, p)
	}
	return t
}

// addExtent seals the head and opens a new one.
func addExtent(r *rand.Rand, t *federation.Topic, p *federation.Partition, number int) {
	base := federation.LogicalOffset(0)
	if h := p.Head(); h != nil {
		h.State, h.End = federation.ExtentSealed, h.Start+federation.PhysicalOffset(r.IntN(100))
		base, _ = h.EndOffset()
		if r.IntN(2) == 0 { // its cluster failed, and came back
			h.Failed, h.Seen, h.Acknowledged, h.Seal = true, h.End, h.End+2, h.End+3
			h.Dropped = []federation.PhysicalRange{{From: h.End, To: h.End + 1}, {From: h.End + 2, To: h.End + 3}}
			if h.End > h.Start {
				h.Hidden = []federation.PhysicalRange{{From: h.Start, To: h.Start + 1}}
			}
		}
		base += federation.LogicalOffset(r.IntN(2)) // sometimes a gap
	}
	p.Epoch++
	start := federation.PhysicalOffset(r.IntN(3))
	opening := federation.PhysicalOffset(0)
	if start > 1 {
		opening = federation.PhysicalOffset(r.IntN(2))
	}
	p.Extents = append(p.Extents, &federation.Extent{
		Opening: opening,
		Number:  int32(number),
		PhysicalAddress: federation.PhysicalAddress{
			Cluster:   []federation.ClusterName{"a", "b", "c"}[number%3],
			Topic:     fmt.Sprintf("default.%s.%d.%d", t.Name, t.Generation, number),
			Partition: federation.PhysicalPartition(p.Number),
		},
		Base: base, Start: start, State: federation.ExtentOpen,
		Epochs: []federation.EpochEntry{{Physical: federation.PhysicalEpoch(r.IntN(4)), Logical: p.Epoch}},
	})
}

// mutate returns the next version of m after some random changes, made on a full
// copy, so that nothing is shared with m by accident.
func mutate(t *testing.T, r *rand.Rand, m *federation.Map) *federation.Map {
	t.Helper()
	next, err := wire.Decode(m.Version, wire.Entries(m))
	require.NoError(t, err)
	next.Version++
	for range 1 + r.IntN(4) {
		names := next.TopicNames()
		switch k := r.IntN(13); {
		case k > 10:
			mutateCredential(r, next)
		case k < 2 || len(names) == 0:
			n := fmt.Sprintf("t%d", r.IntN(20))
			next.Topics[federation.TopicName(n)] = newTopic(r, n, 1+r.IntN(5))
		case k == 2:
			delete(next.Topics, names[r.IntN(len(names))])
		case k == 3: // another topic of the same name
			n := names[r.IntN(len(names))]
			next.Topics[n] = newTopic(r, string(n), 1+r.IntN(5))
		case k == 4: // a physical leader change
			p := next.Topics[names[r.IntN(len(names))]].Partitions[0]
			h := p.Head()
			p.Epoch++
			h.Epochs = append(h.Epochs, federation.EpochEntry{Physical: h.LastEpoch().Physical + 1, Logical: p.Epoch})
		case k == 5: // a move of the head
			x := next.Topics[names[r.IntN(len(names))]]
			p := x.Partitions[len(x.Partitions)-1]
			addExtent(r, x, p, int(p.Head().Number)+1)
		case k == 6:
			id := federation.GatewayID(fmt.Sprintf("g%d", r.IntN(5)))
			next.Gateways = append(without(next.Gateways, id), &federation.Gateway{
				ID: id, NodeID: federation.NodeID(id[1]), ConnectAddress: fmt.Sprintf("h:%d", r.IntN(99)), KafkaAddress: "h:2",
				Zone: "z", Role: federation.Role(r.IntN(3)), State: federation.GatewayState(1 + r.IntN(2)),
			})
			next.FleetGeneration++
		case k == 7:
			next.Gateways = without(next.Gateways, federation.GatewayID(fmt.Sprintf("g%d", r.IntN(5))))
		case k == 8, k == 9:
			mutateQuota(t, r, next)
			mutateGroupConfig(t, r, next)
			a := &federation.ACL{
				Resource: federation.ACLTopic, Pattern: federation.ACLLiteral, Name: fmt.Sprintf("t%d", r.IntN(5)), Principal: "User:alice",
				Host: "*", Operation: federation.ACLRead, Permission: federation.ACLPermission(2 + r.IntN(2)),
			}
			if next.ACLs == nil {
				next.ACLs = make(federation.ACLs)
			}
			if next.ACLs[a.ID()] != nil {
				delete(next.ACLs, a.ID())
			} else {
				next.ACLs[a.ID()] = a
			}
		default:
			c := federation.ClusterName(fmt.Sprintf("x%d", r.IntN(4)))
			if next.Clusters[c] != nil {
				delete(next.Clusters, c)
			} else {
				next.Clusters[c] = &federation.Cluster{Name: c, Seeds: []string{"h:1"}, State: federation.ClusterDraining, Weight: int32(r.IntN(5))}
			}
		}
	}
	next.Seal()
	require.NoError(t, next.Validate())
	return next
}

// mutateQuota sets a quota, or takes it away. Names are such that look like defaults, or
// like the separators of keys.
func mutateQuota(t *testing.T, r *rand.Rand, m *federation.Map) {
	name := func() federation.QuotaName {
		return []federation.QuotaName{{}, federation.NamedQuota(""), federation.NamedQuota("<default>"), federation.NamedQuota("a&ip=/b")}[r.IntN(4)]
	}
	c := federation.QuotaChange{Entity: federation.QuotaEntity{User: name(), ClientID: name()}}
	switch {
	case c.Entity == (federation.QuotaEntity{}):
		c.Entity.IP = federation.NamedQuota("fd00::1")
		c.Set = map[federation.QuotaKey]float64{federation.QuotaConnectionCreationRate: float64(1 + r.IntN(3))}
	case r.IntN(3) == 0:
		c.Remove = federation.QuotaKeys
	default:
		c.Set = map[federation.QuotaKey]float64{federation.QuotaKeys[r.IntN(2)]: float64(1 + r.IntN(3))}
	}
	var err error
	m.Quotas, err = m.Quotas.Apply([]federation.QuotaChange{c})
	require.NoError(t, err)
}

// mutateGroupConfig sets what a group has of its own, or takes it away. Names are such that
// look like separators of keys.
func mutateGroupConfig(t *testing.T, r *rand.Rand, m *federation.Map) {
	c := federation.GroupConfigChange{GroupID: federation.GroupID{Group: []string{"a", "acme/a", "a%2F", "ü "}[r.IntN(4)], Tenant: []string{"", "acme"}[r.IntN(2)]}}
	if r.IntN(3) == 0 {
		c.Remove = federation.GroupConfigNames
	} else {
		c.Set = map[string]string{federation.GroupSessionTimeout: strconv.Itoa(45000 + r.IntN(3))}
	}
	var err error
	m.GroupConfigs, _, err = m.GroupConfigs.Apply(&c)
	require.NoError(t, err)
}

// mutateCredential gives a user a credential, or takes it away.
func mutateCredential(r *rand.Rand, m *federation.Map) {
	id := federation.CredentialID{User: fmt.Sprintf("u/%d", r.IntN(4)), Mechanism: federation.ScramSHA256}
	if m.Credential(id) != nil && r.IntN(2) == 0 {
		if delete(m.Credentials, id); len(m.Credentials) == 0 {
			m.Credentials = nil
		}
		return
	}
	if m.Credentials == nil {
		m.Credentials = make(map[federation.CredentialID]*federation.Credential)
	}
	m.Credentials[id] = &federation.Credential{
		CredentialID: id, Salt: []byte{byte(r.IntN(9))}, Iterations: 4096, StoredKey: make([]byte, 32), ServerKey: make([]byte, 32), CreatedMs: r.Int64N(9),
	}
}

func without(all []*federation.Gateway, id federation.GatewayID) []*federation.Gateway {
	var out []*federation.Gateway
	for _, g := range all {
		if g.ID != id {
			out = append(out, g)
		}
	}
	return out
}

func requireSameMap(t *testing.T, want, got *federation.Map) {
	t.Helper()
	we, ge := wire.Entries(want), wire.Entries(got)
	require.Len(t, ge, len(we))
	for i := range we {
		require.True(t, proto.Equal(we[i], ge[i]), "want %v\ngot %v", we[i], ge[i])
	}
	require.Equal(t, want.Version, got.Version)
	for _, topic := range want.Topics {
		require.Equal(t, topic.Name, got.TopicByID(topic.ID).Name)
	}
	for _, g := range want.Gateways {
		require.Equal(t, g, got.GatewayByNode(g.NodeID))
	}
}

// Diff and Apply undo each other, over a long random history; every entry goes
// through bytes, and no version of the history changes after it was made.
func TestApplyOfDiffIsIdentity(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	m := newMap()
	applied := m
	history := map[*federation.Map][]*controlv1.MapEntry{}
	for range 300 {
		next := mutate(t, r, m)
		d := wire.Diff(m, next)
		b, err := proto.Marshal(d.Proto())
		require.NoError(t, err)
		var onWire controlv1.MapDelta
		require.NoError(t, proto.Unmarshal(b, &onWire))

		got, err := wire.Apply(applied, wire.DeltaFromProto(&onWire))
		require.NoError(t, err)
		requireSameMap(t, next, got)
		again := wire.Diff(next, got)
		require.True(t, again.Empty(), "%v", again)

		history[applied] = wire.Entries(applied)
		m, applied = next, got
	}
	for old, entries := range history {
		now := wire.Entries(old)
		require.Len(t, now, len(entries))
		for i := range entries {
			require.True(t, proto.Equal(entries[i], now[i]), "version %d was changed by a later Apply", old.Version)
		}
	}
}

func TestApplySharesWhatDidNotChange(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	m := newMap()
	for _, n := range []string{"kept", "changed"} {
		m.Topics[federation.TopicName(n)] = newTopic(r, n, 3)
	}
	m.Seal()
	next, err := wire.Decode(m.Version, wire.Entries(m))
	require.NoError(t, err)
	next.Version++
	next.Topics["changed"].Partitions[1].Epoch += 7

	d := wire.Diff(m, next)
	require.Len(t, d.Upserts, 1)
	got, err := wire.Apply(m, d)
	require.NoError(t, err)
	require.Same(t, m.Topics["kept"], got.Topics["kept"])
	require.Same(t, m.Topics["changed"].Partitions[0], got.Topics["changed"].Partitions[0])
	require.Same(t, m.Clusters["a"], got.Clusters["a"])
	require.NotSame(t, m.Topics["changed"].Partitions[1], got.Topics["changed"].Partitions[1])
	require.Equal(t, m.Topics["changed"].Partitions[1].Epoch+7, got.Topics["changed"].Partitions[1].Epoch)
}

func TestApplyRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	m := newMap()
	m.Topics["orders"] = newTopic(r, "orders", 2)
	m.Gateways = []*federation.Gateway{{ID: "g1", NodeID: 1, State: federation.GatewayReady}}
	m.Seal()
	entry := func(key string) *controlv1.MapEntry {
		for _, e := range wire.Entries(m) {
			if e.Key == key {
				return proto.CloneOf(e)
			}
		}
		require.Fail(t, "no entry", key)
		return nil
	}
	change := func(key string, f func(*controlv1.MapEntry)) []*controlv1.MapEntry {
		e := entry(key)
		f(e)
		return []*controlv1.MapEntry{e}
	}
	for name, tc := range map[string]struct {
		upserts []*controlv1.MapEntry
		deletes []string
		want    string
	}{
		"key of another entry": {change("cluster/a", func(e *controlv1.MapEntry) { e.Key = "cluster/b" }), nil, "does not fit"},
		"no value":             {[]*controlv1.MapEntry{{Key: "meta"}}, nil, "no value"},
		"unknown delete":       {nil, []string{"nothing/x"}, "unknown key"},
		"bad partition key":    {nil, []string{"partition/orders/01"}, "bad key"},
		"twice":                {[]*controlv1.MapEntry{entry("meta"), entry("meta")}, nil, "twice"},
		"cluster in use":       {nil, []string{"cluster/a"}, "was deleted"},
		"missing partition":    {nil, []string{"partition/orders/1"}, "missing"},
		"partition above count": {change("partition/orders/1", func(e *controlv1.MapEntry) {
			e.Key, e.GetPartition().Partition = "partition/orders/2", 2
		}), nil, "also an entry of partition 2"},
		"huge count":     {change("topic/orders", func(e *controlv1.MapEntry) { e.GetTopic().PartitionCount = 1 << 30 }), nil, "at most 2"},
		"negative count": {change("topic/orders", func(e *controlv1.MapEntry) { e.GetTopic().PartitionCount = -1 }), nil, "negative"},
		"topic id":       {change("topic/orders", func(e *controlv1.MapEntry) { e.GetTopic().TopicId = []byte("short") }), nil, "5 bytes"},
		"same topic id": {change("topic/orders", func(e *controlv1.MapEntry) {
			e.Key, e.GetTopic().Name, e.GetTopic().PartitionCount = "topic/other", "other", 0
		}), nil, "same topic id"},
		"partition of no topic": {change("partition/orders/0", func(e *controlv1.MapEntry) {
			e.Key, e.GetPartition().Topic = "partition/ghost/0", "ghost"
		}), nil, "no entry of its own"},
		"deleted, with a partition": {[]*controlv1.MapEntry{entry("partition/orders/0")}, []string{"topic/orders"}, "deleted"},
		"physical partition twice": {change("partition/orders/1", func(e *controlv1.MapEntry) {
			x := entry("partition/orders/0").GetPartition().GetExtents()[0]
			e.GetPartition().Extents[0].PhysicalTopic, e.GetPartition().Extents[0].PhysicalPartition = x.PhysicalTopic, x.PhysicalPartition
		}), nil, "is used by"},
		"acl of another id": {[]*controlv1.MapEntry{{Key: "acl/x", Value: &controlv1.MapEntry_Acl{Acl: &controlv1.AclEntry{
			ResourceType: 2, PatternType: 3, ResourceName: "orders", Principal: "User:alice", Host: "*", Operation: 3, PermissionType: 3,
		}}}}, nil, "does not fit"},
		"quota of another entity": {[]*controlv1.MapEntry{{Key: "quota/user=bob", Value: &controlv1.MapEntry_Quota{Quota: &controlv1.QuotaEntry{
			User: new("alice"), Values: map[string]float64{"producer_byte_rate": 1},
		}}}}, nil, "does not fit"},
		"quota of nobody": {[]*controlv1.MapEntry{{Key: "quota/", Value: &controlv1.MapEntry_Quota{Quota: &controlv1.QuotaEntry{
			Values: map[string]float64{"producer_byte_rate": 1},
		}}}}, nil, "none is named"},
		"quota with an unknown key": {[]*controlv1.MapEntry{{Key: "quota/user=alice", Value: &controlv1.MapEntry_Quota{Quota: &controlv1.QuotaEntry{
			User: new("alice"), Values: map[string]float64{"bytes": 1},
		}}}}, nil, "no key of it"},
		"config of another group": {[]*controlv1.MapEntry{{Key: "group-config/b", Value: &controlv1.MapEntry_GroupConfig{GroupConfig: &controlv1.GroupConfigEntry{
			Group: "a", Values: map[string]string{"consumer.session.timeout.ms": "50000"},
		}}}}, nil, "does not fit"},
		"config of a tenant's group": {[]*controlv1.MapEntry{{Key: "group-config/a", Value: &controlv1.MapEntry_GroupConfig{GroupConfig: &controlv1.GroupConfigEntry{
			Group: "a", Tenant: "acme", Values: map[string]string{"consumer.session.timeout.ms": "50000"},
		}}}}, nil, "does not fit"},
		"config of no group": {[]*controlv1.MapEntry{{Key: "group-config/", Value: &controlv1.MapEntry_GroupConfig{GroupConfig: &controlv1.GroupConfigEntry{
			Values: map[string]string{"consumer.session.timeout.ms": "50000"},
		}}}}, nil, "is empty"},
		"empty config of a group": {[]*controlv1.MapEntry{{Key: "group-config/a", Value: &controlv1.MapEntry_GroupConfig{GroupConfig: &controlv1.GroupConfigEntry{Group: "a"}}}}, nil, "0 settings"},
		"bad key of a config":     {nil, []string{"group-config/a b"}, "bad key"},
		"acl of no type": {[]*controlv1.MapEntry{{Key: "acl/x", Value: &controlv1.MapEntry_Acl{Acl: &controlv1.AclEntry{
			ResourceType: 258, PatternType: 3, ResourceName: "orders", Principal: "User:alice", Host: "*", Operation: 3, PermissionType: 3,
		}}}}, nil, "resource type"},
		"unknown cluster":       {change("partition/orders/0", func(e *controlv1.MapEntry) { e.GetPartition().Extents[0].Cluster = "zz" }), nil, "unknown cluster"},
		"extent state":          {change("partition/orders/0", func(e *controlv1.MapEntry) { e.GetPartition().Extents[0].State = 9 }), nil, "unknown state"},
		"epoch above":           {change("partition/orders/0", func(e *controlv1.MapEntry) { e.GetPartition().Epoch = 0 }), nil, "is above the partition's"},
		"cluster state":         {change("cluster/a", func(e *controlv1.MapEntry) { e.GetCluster().State = 0 }), nil, "unknown state"},
		"gateway role":          {change("gateway/g1", func(e *controlv1.MapEntry) { e.GetGateway().Role = "king" }), nil, "king"},
		"gateway state":         {change("gateway/g1", func(e *controlv1.MapEntry) { e.GetGateway().State = 7 }), nil, "unknown state"},
		"node id twice":         {change("gateway/g1", func(e *controlv1.MapEntry) { e.Key, e.GetGateway().Id = "gateway/g2", "g2" }), nil, "node id 1"},
		"fleet generation":      {change("meta", func(e *controlv1.MapEntry) { e.GetMeta().FleetGeneration = -1 }), nil, "negative"},
		"cluster weight":        {change("cluster/a", func(e *controlv1.MapEntry) { e.GetCluster().Weight = -1 }), nil, "negative"},
		"credential iterations": {credential(func(e *controlv1.CredentialEntry) { e.Iterations = 1 }), nil, "4096 to 16384"},
		"credential key":        {credential(func(e *controlv1.CredentialEntry) { e.StoredKey = nil }), nil, "keys of 0 and 32 bytes"},
		"credential mechanism":  {credential(func(e *controlv1.CredentialEntry) { e.Mechanism = "MD5" }), nil, "MD5"},
		"credential user":       {credential(func(e *controlv1.CredentialEntry) { e.User = "bob" }), nil, "does not fit"},
		"credential delete":     {nil, []string{"credential/alice"}, "bad key"},
		"name with a slash":     {change("cluster/a", func(e *controlv1.MapEntry) { e.Key, e.GetCluster().Name = "cluster/a/b", "a/b" }), nil, "bad name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := wire.Apply(m, wire.Delta{From: m.Version, To: m.Version + 1, Upserts: tc.upserts, Deletes: tc.deletes})
			require.ErrorContains(t, err, tc.want)
		})
	}
	_, err := wire.Apply(m, wire.Delta{From: m.Version + 1, To: m.Version + 2})
	require.ErrorContains(t, err, "begins at version")
	_, err = wire.Apply(m, wire.Delta{From: m.Version, To: m.Version})
	require.ErrorContains(t, err, "goes back")
	_, err = wire.Decode(1, nil)
	require.ErrorContains(t, err, `"meta" is missing`)
	requireSameMap(t, newCopy(t, m), m)
}

// credential is an entry of a credential with a change.
func credential(change func(*controlv1.CredentialEntry)) []*controlv1.MapEntry {
	c := &controlv1.CredentialEntry{User: "alice", Mechanism: "SCRAM-SHA-256", Salt: []byte("salt"), Iterations: 4096, StoredKey: make([]byte, 32), ServerKey: make([]byte, 32)}
	change(c)
	return []*controlv1.MapEntry{{Key: "credential/alice/SCRAM-SHA-256", Value: &controlv1.MapEntry_Credential{Credential: c}}}
}

func newCopy(t *testing.T, m *federation.Map) *federation.Map {
	t.Helper()
	t.Helper()
	c, err := wire.Decode(m.Version, wire.Entries(m))
	require.NoError(t, err)
	return c
}

// bigMap has 50,000 extents.
func bigMap() *federation.Map {
	r := rand.New(rand.NewPCG(3, 3))
	m := newMap()
	for i := range 500 {
		t := &federation.Topic{Name: federation.TopicName(fmt.Sprintf("topic-%04d", i)), ID: federation.NewTopicID(), Generation: 1}
		for j := range 50 {
			p := &federation.Partition{Topic: t.Name, Number: federation.LogicalPartition(j)}
			addExtent(r, t, p, 0)
			addExtent(r, t, p, 1)
			t.Partitions = append(t.Partitions, p)
		}
		m.Topics[t.Name] = t
	}
	return m.Seal()
}

func TestSnapshotInParts(t *testing.T) {
	m := bigMap()
	require.NoError(t, m.Validate())
	parts := wire.Snapshot(m)
	require.Greater(t, len(parts), 3)
	var a wire.Assembler
	for i, p := range parts {
		require.LessOrEqual(t, proto.Size(p), wire.PartBytesMax)
		for _, e := range p.GetEntries() {
			require.Zero(t, e.GetVersion(), "the snapshot says it once")
		}
		if i == 2 { // the stream broke off, and begins again
			_, err := a.Add(parts[0])
			require.NoError(t, err)
			_, err = a.Add(parts[2])
			require.ErrorContains(t, err, "came instead of 1")
			for _, again := range parts[:2] {
				_, err = a.Add(again)
				require.NoError(t, err)
			}
		}
		got, err := a.Add(p)
		require.NoError(t, err)
		if i < len(parts)-1 {
			require.Nil(t, got)
			continue
		}
		requireSameMap(t, m, got)
	}
	_, err := a.Add(&controlv1.MapSnapshot{Parts: 1 << 30})
	require.ErrorContains(t, err, "bad part")
}

// Former builds said the version in each entry, too.
func TestSnapshotWithVersionsInEntries(t *testing.T) {
	m := bigMap()
	var a wire.Assembler
	got, err := a.Add(&controlv1.MapSnapshot{Version: int64(m.Version), Parts: 1, Entries: wire.Entries(m)})
	require.NoError(t, err)
	requireSameMap(t, m, got)
}

// The numbers of the enums are the same, since the mapper converts by number.
func TestEnumsAgree(t *testing.T) {
	for n, name := range map[int32]string{
		int32(federation.ClusterActive):   controlv1.ClusterEntry_STATE_ACTIVE.String(),
		int32(federation.ClusterDraining): controlv1.ClusterEntry_STATE_DRAINING.String(),
		int32(federation.ClusterFailed):   controlv1.ClusterEntry_STATE_FAILED.String(),
	} {
		require.Equal(t, controlv1.ClusterEntry_State_name[n], name)
	}
	require.EqualValues(t, federation.GatewayReady, controlv1.GatewayEntry_STATE_READY)
	require.EqualValues(t, federation.GatewayDraining, controlv1.GatewayEntry_STATE_DRAINING)
	require.EqualValues(t, federation.GatewayLost, controlv1.GatewayEntry_STATE_LOST)
	require.EqualValues(t, federation.ExtentOpen, controlv1.ExtentEntry_STATE_OPEN)
	require.EqualValues(t, federation.ExtentSealing, controlv1.ExtentEntry_STATE_SEALING)
	require.EqualValues(t, federation.ExtentSealed, controlv1.ExtentEntry_STATE_SEALED)
	require.EqualValues(t, federation.ExtentSuspended, controlv1.ExtentEntry_STATE_SUSPENDED)
}

// Whichever field of an extent changes, the delta has it, and brings it over.
func TestEachFieldOfAnExtentIsInADelta(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	base := newMap()
	base.Topics["orders"] = newTopic(r, "orders", 1)
	p := base.Topics["orders"].Partitions[0]
	p.Epoch = 100
	p.Extents = []*federation.Extent{
		{PhysicalAddress: federation.PhysicalAddress{Cluster: "a", Topic: "x"}, Start: 10, End: 20, Seal: 30, State: federation.ExtentSealed, Epochs: []federation.EpochEntry{{Logical: 1}}},
		{Number: 9, PhysicalAddress: federation.PhysicalAddress{Cluster: "a", Topic: "x", Partition: 1}, Base: 100, Epochs: []federation.EpochEntry{{Logical: 99}}, State: federation.ExtentOpen},
	}
	base.Seal()
	require.NoError(t, base.Validate())
	ranges := []federation.PhysicalRange{{From: 12, To: 13}}
	changes := map[string]any{
		"Number": int32(1), "PhysicalAddress": federation.PhysicalAddress{Cluster: "a", Topic: "y"}, "Base": federation.LogicalOffset(5),
		"Start": federation.PhysicalOffset(11), "End": federation.PhysicalOffset(19), "State": federation.ExtentSuspended,
		"Epochs": []federation.EpochEntry{{Logical: 2}}, "Opening": federation.PhysicalOffset(3), "Copies": federation.PhysicalRange{From: 2, To: 2},
		"Failed": true, "Seen": federation.PhysicalOffset(12), "Acknowledged": federation.PhysicalOffset(13), "Seal": federation.PhysicalOffset(29),
		"Hidden": ranges, "Dropped": []federation.PhysicalRange{{From: 21, To: 22}},
	}
	of := reflect.TypeFor[federation.Extent]()
	for i := range of.NumField() {
		name := of.Field(i).Name
		t.Run(name, func(t *testing.T) {
			require.Contains(t, changes, name)
			e := *p.Extents[0]
			reflect.ValueOf(&e).Elem().Field(i).Set(reflect.ValueOf(changes[name]))
			if name == "State" {
				e.Seal = 0
			}
			next, topic, part := *base, *base.Topics["orders"], *p
			part.Extents = []*federation.Extent{&e, p.Extents[1]}
			topic.Partitions = []*federation.Partition{&part}
			next.Topics, next.Version = map[federation.TopicName]*federation.Topic{"orders": &topic}, base.Version+1
			next.Seal()
			d := wire.Diff(base, &next)
			require.False(t, d.Empty())
			got, err := wire.Apply(base, d)
			require.NoError(t, err)
			require.Equal(t, &e, got.Topics["orders"].Partitions[0].Extents[0])
		})
	}
}

// FuzzDecode feeds bytes as a snapshot, as an entry and as a delta: never a
// panic, and whatever is taken is a valid map that survives the way back.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(4, 4))
	base := newMap()
	base.Topics["orders"] = newTopic(r, "orders", 2)
	base.Gateways = []*federation.Gateway{{ID: "g1", NodeID: 1, State: federation.GatewayReady}}
	base.Seal()
	for _, p := range wire.Snapshot(base) {
		b, err := proto.Marshal(p)
		require.NoError(f, err)
		f.Add(b)
	}
	d := wire.Diff(newMap(), base)
	b, err := proto.Marshal((&wire.Delta{From: base.Version, To: base.Version + 1, Upserts: d.Upserts, Deletes: []string{"gateway/g1"}}).Proto())
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := wire.Unmarshal(b); err == nil {
			_, err = wire.Marshal(e)
			require.NoError(t, err)
		}
		var snapshot controlv1.MapSnapshot
		if proto.Unmarshal(b, &snapshot) == nil {
			var a wire.Assembler
			if m, err := a.Add(&snapshot); err == nil && m != nil {
				require.NoError(t, m.Validate())
				requireSameMap(t, newCopy(t, m), m)
			}
		}
		var delta controlv1.MapDelta
		if proto.Unmarshal(b, &delta) == nil {
			if m, err := wire.Apply(base, wire.DeltaFromProto(&delta)); err == nil {
				require.NoError(t, m.Validate())
				requireSameMap(t, newCopy(t, m), m)
				back, err := wire.Apply(base, wire.Diff(base, m))
				require.NoError(t, err)
				requireSameMap(t, m, back)
			}
		}
	})
}

func BenchmarkApply(b *testing.B) {
	m := bigMap()
	next := *m
	next.Version++
	topic := *m.Topics["topic-0007"]
	topic.Partitions = append([]*federation.Partition(nil), topic.Partitions...)
	p := *topic.Partitions[3]
	p.Epoch++
	topic.Partitions[3] = &p
	topics := maps.Clone(m.Topics)
	topics["topic-0007"] = &topic
	next.Topics = topics
	b.Run("diff", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if d := wire.Diff(m, &next); len(d.Upserts) != 1 {
				b.Fatal(d)
			}
		}
	})
	d := wire.Diff(m, &next)
	b.Run("apply", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := wire.Apply(m, d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A map of 50,000 extents to bytes and back: what a gateway's start costs the
// controller, and the gateway.
func BenchmarkSnapshot(b *testing.B) {
	m := bigMap()
	var parts [][]byte
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			parts = parts[:0]
			for _, p := range wire.Snapshot(m) {
				raw, err := proto.Marshal(p)
				if err != nil {
					b.Fatal(err)
				}
				parts = append(parts, raw)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var a wire.Assembler
			var got *federation.Map
			for _, raw := range parts {
				p := new(controlv1.MapSnapshot)
				if err := proto.Unmarshal(raw, p); err != nil {
					b.Fatal(err)
				}
				var err error
				if got, err = a.Add(p); err != nil {
					b.Fatal(err)
				}
			}
			if got == nil {
				b.Fatal("the map is not whole")
			}
		}
	})
}
