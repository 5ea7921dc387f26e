//go:build synctests

package sim

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/test/check"
)

// tenantNames are those of the tenants that a world can have.
var tenantNames = []string{"acme", "beta"}

// tenants says how many tenants a seed's world has beside the deployment's own logical
// cluster.
func (o *Options) tenants() int {
	switch o.Seed % 5 {
	case 2:
		return 1
	case 4:
		return 2
	default:
		return 0
	}
}

// A logical is a logical cluster of a world: the deployment's own, or a tenant. All have
// a topic and a group of the same names, and clients of their own.
type logical struct {
	*world
	tenant     string // "" = the deployment's own
	history    *history
	partitions atomic.Int32 // of the topic
}

func (w *world) logical(tenant string) *logical {
	l := &logical{world: w, tenant: tenant, history: &history{chronicle: w.history, tenant: tenant, seen: check.NewSeen(), groups: make(map[string][]check.Record), tenures: newTenures(), jumps: w.failing()}}
	l.partitions.Store(partitions)
	return l
}

// parent is the resource name of the logical cluster.
func (l *logical) parent() string {
	if l.tenant == "" {
		return parent
	}
	return "logicalClusters/" + l.tenant
}

// label names something of it in the trace.
func (l *logical) label(what string) string {
	if l.tenant == "" {
		return what
	}
	return l.tenant + "/" + what
}

// client is the name of one of its clients, and of its host. Faults find those of a kind
// by how a name begins.
func (l *logical) client(kind string, i int) string {
	if l.tenant == "" {
		return fmt.Sprint(kind, i)
	}
	return fmt.Sprint(kind, "-", l.tenant, i)
}

// counters are those of one of its producers, whose values say whose they are.
func (l *logical) counters(producer string) counters {
	if l.tenant != "" {
		producer = l.tenant + whose + producer
	}
	return counters{producer: producer}
}

// whose is between the tenant and the producer in a value.
const whose = ":"

// tenantOf is the tenant whose producer has written a value.
func tenantOf(value string) string {
	tenant, _, found := strings.Cut(value, whose)
	if !found {
		return ""
	}
	return tenant
}

// tenantPorts are those of the listeners of tenants.
var tenantPorts = map[string]string{"": kafkaPort, "acme": "9192", "beta": "9193", "guest0": "9194", "guest1": "9195"}

// kafka is the address of a gateway's Kafka facade for its clients.
func (l *logical) kafka(g *node) string { return g.host + ":" + tenantPorts[l.tenant] }

// tenantListeners are those of a gateway.
func tenantListeners(g *node) map[string]string {
	listeners := make(map[string]string)
	for tenant, port := range tenantPorts {
		if tenant != "" {
			listeners[tenant] = g.host + ":" + port
		}
	}
	return listeners
}

func (l *logical) kafkaAddresses() (all []string) {
	for _, g := range l.gateways {
		all = append(all, l.kafka(g))
	}
	return all
}

// inTenant says in each call which logical cluster it is about.
type inTenant struct {
	tenant string
	next   *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t inTenant) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Braid-Logical-Cluster", t.tenant)
	return t.next.RoundTrip(r)
}

// CloseIdleConnections is what http.Client looks for.
func (t inTenant) CloseIdleConnections() { t.next.CloseIdleConnections() }

func (l *logical) connectClient(host string, gateway int) *connectClient {
	c := l.world.connectClient(host, gateway)
	if l.tenant != "" {
		c.http = &http.Client{Transport: inTenant{l.tenant, l.transport(host)}}
	}
	return c
}

// clients starts producers, which end with one context, and readers, which end with
// another. A tenant has fewer than the deployment's own logical cluster.
func (l *logical) clients(producing, reading context.Context, producers, readers *sync.WaitGroup) {
	count := 2
	if l.tenant != "" {
		count = 1
	}
	for i := range count {
		producers.Go(func() { l.kafkaProducer(producing, i) })
		producers.Go(func() { l.batchProducer(producing, i) })
		producers.Go(func() { l.streamProducer(producing, i) })
		readers.Go(func() { l.connectMember(reading, group, i, l.Duration/5*time.Duration(i)) })
	}
	readers.Go(func() { l.kafkaMember(reading, 0, 0) })
	readers.Go(func() { l.kafkaMember(reading, 1, l.Duration/4) })
	if l.modern() {
		for i := range modernCount {
			readers.Go(func() { l.modernMember(producing, reading, i, l.Duration/6*time.Duration(i)) })
		}
		readers.Go(func() { l.connectMember(reading, modernGroup, count, l.Duration/4) })
	}
	for i := range l.gateways {
		readers.Go(func() { l.tailReader(reading, i) })
		readers.Go(func() { l.metadataWatcher(reading, i) })
	}
	readers.Go(func() { l.historian(reading, l.source(4)) })
}

// groups are the groups that read the topic.
func (l *logical) groups() []string {
	if l.modern() {
		return []string{group, modernGroup}
	}
	return []string{group}
}

// createTenants makes the tenants known.
func (o *operator) createTenants(ctx context.Context) error {
	for _, l := range o.logicals[1:] {
		if err := o.createTenant(ctx, l.tenant); err != nil {
			return fmt.Errorf("create tenant %s: %w", l.tenant, err)
		}
	}
	return nil
}

func (o *operator) createTenant(ctx context.Context, name string) error {
	return o.call(ctx, func(ctx context.Context) error {
		_, err := o.tenantService().CreateTenant(ctx, &adminv1.CreateTenantRequest{TenantId: name})
		if connect.CodeOf(err) == connect.CodeAlreadyExists {
			return nil // by a call whose answer was lost
		}
		return err
	})
}

func (o *operator) tenantService() adminv1connect.TenantServiceClient {
	return adminv1connect.NewTenantServiceClient(o.client.http, o.client.url())
}
