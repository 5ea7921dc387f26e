package world

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/realparts"
)

// Embedded starts a world in the test's own process; it ends with the test.
func Embedded(t TB, o Options) *World {
	t.Helper()
	o = o.withDefaults()
	w := &World{t: t, Client: newClient()}
	e := &embeddedParts{t: t, options: o}
	for i := range o.Controllers {
		w.Controllers = append(w.Controllers, e.node(t, process.Controller, i))
	}
	for i := range o.Gateways {
		w.Gateways = append(w.Gateways, e.node(t, process.Gateway, i))
	}
	w.NameServer = e.node(t, process.NameServer, 0)
	e.nodes = map[process.Role][]*Node{process.Controller: w.Controllers, process.Gateway: w.Gateways, process.NameServer: {w.NameServer}}

	options := embedded.Options{
		Controllers: o.Controllers, Gateways: o.Gateways, NameServers: 1, Configure: e.configure, Build: "test",
		Brokers: o.Brokers, FleetToken: o.fleetToken(),
		Logger: logger(t),
	}
	for _, name := range o.Clusters {
		options.Clusters = append(options.Clusters, embedded.Cluster{Name: name})
	}
	e.federation = embedded.New(t, options)
	for i, n := range e.federation.Controllers() {
		w.Controllers[i].proc = n
	}
	for i, n := range e.federation.Gateways() {
		w.Gateways[i].proc = n
	}
	for _, n := range e.federation.NameServers() {
		w.NameServer.proc = n
	}
	for _, c := range e.federation.Clusters() {
		w.Clusters = append(w.Clusters, e.cluster(t, c))
	}
	w.startCluster = func(t TB, name string) Cluster {
		t.Helper()
		c, err := e.federation.StartCluster(embedded.Cluster{Name: name})
		if err != nil {
			t.Fatalf("%v", err)
		}
		return e.cluster(t, c)
	}
	w.Redis = embeddedRedis{e.federation.Redis}
	w.createTenants(o)
	return w
}

// embeddedParts starts nodes in the test's process.
type embeddedParts struct {
	t          TB
	options    Options
	federation *embedded.Federation
	nodes      map[process.Role][]*Node
	again      *Node // that is being started again
}

func (e *embeddedParts) cluster(t TB, c embedded.Cluster) Cluster {
	t.Helper()
	return Cluster{Name: c.Name, Seeds: c.Seeds, ClusterID: clusterID(t, c.Seeds), Fake: e.federation.Kafka(c.Name).Fake}
}

func (e *embeddedParts) node(t TB, role process.Role, index int) *Node {
	n := &Node{ID: role.String() + "-" + string(rune('0'+index)), role: role.String(), Connect: realparts.FreeAddress(t), start: e.start}
	if role != process.Controller {
		n.Kafka = realparts.FreeAddress(t)
	}
	n.Ops = realparts.FreeAddress(t)
	n.Tenants, n.Zone = tenantListeners(t, role.String(), e.options), e.options.zone(role.String(), index)
	return n
}

// configure gives a process the id and the addresses of its node.
func (e *embeddedParts) configure(c *process.Config, index int) {
	n := e.again
	if n == nil {
		n = e.nodes[c.Role][index]
	}
	c.ID, c.Listen, c.OpsListen = n.ID, n.Connect, n.Ops
	if e.options.AskACLs && c.Role != process.Controller {
		c.Authorization = process.Authorization{Authorizer: process.AuthorizerACL, AllowIfNoACL: true}
	}
	switch c.Role {
	case process.Gateway:
		c.KafkaListen, c.AutoCreateTopics, c.Zone = n.Kafka, e.options.AutoCreateTopics, n.Zone
		c.Tenants, c.TenantKafkaListen = len(n.Tenants) > 0, n.Tenants
	case process.NameServer:
		c.BootstrapListen, c.Tenants, c.TenantBootstrapListen = n.Kafka, len(n.Tenants) > 0, n.Tenants
	case process.Controller:
		c.Controller.GatewayLease, c.Controller.SealHeadsMax = e.options.GatewayLease, e.options.SealHeadsMax
		c.Controller.OffsetsBackupInterval = e.options.OffsetsBackup
	}
}

func (e *embeddedParts) start(n *Node) (nodeProcess, error) {
	e.again = n
	defer func() { e.again = nil }()
	switch n.role {
	case process.Gateway.String():
		return e.federation.AddGateway(e.t.Context())
	case process.Controller.String():
		p, err := e.federation.AddController()
		if err != nil {
			return nil, err
		}
		return p, e.federation.AwaitReady(e.t.Context())
	default:
		p, err := e.federation.AddNameServer()
		if err != nil {
			return nil, err
		}
		return p, e.federation.AwaitReady(e.t.Context())
	}
}

// tenantListeners finds addresses for what a gateway, or a bootstrap, has for tenants.
func tenantListeners(t TB, role string, o Options) map[string]string {
	t.Helper()
	if role == "controller" || len(o.Tenants) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, name := range o.Tenants {
		out[name] = realparts.FreeAddress(t)
	}
	return out
}

func (w *World) createTenants(o Options) {
	w.t.Helper()
	for _, name := range o.Tenants {
		w.MustBraid(w.t, "", "tenant", "create", name)
	}
}

// embeddedRedis is taken away by answering every command with an error.
type embeddedRedis struct{ *embedded.Redis }

func (r embeddedRedis) Down() { r.Mini.SetError("LOADING Redis is loading the dataset in memory") }
func (r embeddedRedis) Up()   { r.Mini.SetError("") }
func (r embeddedRedis) Wipe() { r.Mini.FlushAll() }

// logger writes to a file, whose end is logged if the test fails; it is kept if
// BRAID_TEST_LOG names it.
func logger(t TB) *slog.Logger {
	t.Helper()
	path := os.Getenv("BRAID_TEST_LOG")
	if path == "" {
		path = filepath.Join(t.TempDir(), "braid.log")
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		_ = f.Close()
		if t.Failed() {
			t.Logf("the end of the log:\n%s", realparts.Tail(path))
		}
	})
	return slog.New(slog.NewTextHandler(f, nil))
}

func clusterID(t TB, seeds []string) string {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...))
	if err != nil {
		t.Fatalf("client of %v: %v", seeds, err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	metadata, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	if err != nil || metadata.ClusterID == nil {
		t.Fatalf("cluster id of %v: %v", seeds, err)
	}
	return *metadata.ClusterID
}
