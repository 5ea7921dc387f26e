package world

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

// Real starts real Kafka clusters, a real Redis, and braid as one process for
// each role of the built binary. It installs what is missing, and ends with the test.
func Real(t TB, o Options) *World {
	t.Helper()
	o = o.withDefaults()
	r := &realParts{t: t, options: o, dir: t.TempDir()}
	w := &World{t: t, Real: true, Client: newClient()}
	Binary(t)
	redis := realparts.StartRedis(t)
	r.redis, w.Redis = redis, realRedis{t, redis}
	for _, k := range realparts.StartKafka(t, o.HeapMB, o.Clusters...) {
		for id := int32(2); int(id) <= o.Brokers; id++ {
			k.AddBroker(t, id)
		}
		w.Clusters = append(w.Clusters, realCluster(t, k))
	}
	w.startCluster = func(t TB, name string) Cluster {
		t.Helper()
		return realCluster(t, realparts.StartKafka(t, o.HeapMB, name)[0])
	}
	for i := range o.Controllers {
		w.Controllers = append(w.Controllers, r.node("controller", i))
	}
	for i := range o.Gateways {
		w.Gateways = append(w.Gateways, r.node("gateway", i))
	}
	w.NameServer = r.node("nameserver", 0)

	begin := time.Now()
	if err := startAll(slices.Concat(w.Controllers, w.Gateways)); err != nil {
		t.Fatalf("real world: %v", err)
	}
	for _, c := range w.Clusters {
		w.MustBraid(t, "", "cluster", "add", c.Name, "--seeds", strings.Join(c.Seeds, ","))
	}
	w.createTenants(o)
	if err := w.NameServer.Start(); err != nil {
		t.Fatalf("real world: %v", err)
	}
	t.Logf("braid on real parts is ready after %.1f s", time.Since(begin).Seconds())
	return w
}

func realCluster(t TB, k *realparts.Kafka) Cluster {
	return Cluster{Name: k.Name, Seeds: []string{k.Seed}, ClusterID: k.ClusterID, Kill: k.Kill, Restart: func() { k.Restart(t) }}
}

// realParts starts nodes as processes.
type realParts struct {
	t       TB
	options Options
	dir     string
	redis   *realparts.Redis
}

func (r *realParts) node(role string, index int) *Node {
	n := &Node{ID: role + "-" + strconv.Itoa(index), role: role, Connect: realparts.FreeAddress(r.t), Ops: realparts.FreeAddress(r.t), start: r.start}
	if role != "controller" {
		n.Kafka = realparts.FreeAddress(r.t)
	}
	n.Tenants, n.Zone = tenantListeners(r.t, role, r.options), r.options.zone(role, index)
	return n
}

func (r *realParts) start(n *Node) (nodeProcess, error) {
	command := []string{
		Binary(r.t), n.role, "--id", n.ID, "--redis", r.redis.URL(),
		"--listen", n.Connect, "--ops-listen", n.Ops, "--log-level", "info",
	}
	if token := r.options.fleetToken(); token != "" {
		file := filepath.Join(r.dir, "fleet.token")
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			return nil, fmt.Errorf("token of the fleet: %w", err)
		}
		command = append(command, "--fleet-token-file", file)
	}
	if r.options.AskACLs && n.role != "controller" {
		command = append(command, "--authorizer", "acl", "--allow-everyone-if-no-acl")
	}
	switch n.role {
	case "controller":
		if r.options.GatewayLease > 0 {
			command = append(command, "--gateway-lease", r.options.GatewayLease.String())
		}
		if r.options.SealHeadsMax > 0 {
			command = append(command, "--seal-heads", strconv.Itoa(r.options.SealHeadsMax))
		}
		if r.options.OffsetsBackup > 0 {
			command = append(command, "--offsets-backup-interval", r.options.OffsetsBackup.String())
		}
	case "gateway":
		command = append(command, "--kafka-listen", n.Kafka)
		if n.Zone != "" {
			command = append(command, "--zone", n.Zone)
		}
		if len(n.Tenants) > 0 {
			command = append(command, "--tenants")
		}
		for tenant, address := range n.Tenants {
			command = append(command, "--tenant-kafka-listen", tenant+"="+address)
		}
		if r.options.AutoCreateTopics {
			command = append(command, "--auto-create-topics")
		}
	case "nameserver":
		command = append(command, "--bootstrap-listen", n.Kafka)
		if len(n.Tenants) > 0 {
			command = append(command, "--tenants")
		}
		for tenant, address := range n.Tenants {
			command = append(command, "--tenant-bootstrap-listen", tenant+"="+address)
		}
	}
	command = append(command, r.options.Flags[n.role]...)
	p, err := realparts.StartProcess(r.t, n.ID, r.dir, command...)
	if err != nil {
		return nil, err
	}
	return realNode{p}, p.Ready(func() error { return Ready(n.Ops) })
}

// Ready asks /readyz of a process, at its ops address.
func Ready(ops string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s: %s", response.Status, text)
	}
	return nil
}

type realNode struct{ *realparts.Process }

func (n realNode) Stop() error { return n.Process.Stop(StopTimeout) }

type realRedis struct {
	t     TB
	redis *realparts.Redis
}

func (r realRedis) Down() { r.redis.Kill() }
func (r realRedis) Up()   { r.redis.Restart(r.t) }

func (r realRedis) URL() string { return r.redis.URL() }

func (r realRedis) Wipe() {
	r.redis.Kill()
	r.redis.Wipe(r.t)
	r.redis.Restart(r.t)
}
