// Package world runs a whole federation for tests, in one of two ways that look
// the same: embedded (Redis, Kafka clusters and all roles in the test's own
// process), or real (real Kafka clusters, a real Redis, and each role as a
// process of the built binary). Tests reach both by public doors only.
package world

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/test/realparts"
)

// StopTimeout bounds a graceful stop.
const StopTimeout = 30 * time.Second

// A TB is what this package needs of a test.
type TB interface {
	realparts.TB
	Context() context.Context
}

// Options say how large a world is. Zero fields take the defaults.
type Options struct {
	Gateways    int      // 2 by default
	Controllers int      // 1 by default
	Clusters    []string // names; a and b by default
	HeapMB      int      // of each real broker; 320 by default
	Brokers     int      // of each cluster; 1 by default
	Zones       []string // of the gateways, one for each; none by default
	// AutoCreateTopics is the gateways' setting.
	AutoCreateTopics bool
	// AskACLs has gateways ask ACLs, and allow everybody what none speaks of.
	AskACLs bool
	// Tenants are created; gateways have a listener for each.
	Tenants []string
	// GatewayLease is the controllers' setting; the product's default if it is zero.
	GatewayLease time.Duration
	// SealHeadsMax is the controllers' setting; the product's default if it is zero.
	SealHeadsMax int
	// OffsetsBackup is the controllers' interval; the product's default if it is zero.
	OffsetsBackup time.Duration
	// Flags are further ones of a real world's processes, by role.
	Flags map[string][]string
}

func (o Options) withDefaults() Options {
	if o.Gateways == 0 {
		o.Gateways = 2
	}
	if o.Controllers == 0 {
		o.Controllers = 1
	}
	if o.Clusters == nil {
		o.Clusters = []string{"a", "b"}
	}
	if o.HeapMB == 0 {
		o.HeapMB = 320
	}
	o.Brokers = max(o.Brokers, 1)
	return o
}

// fleetToken is what the processes know each other by, where gateways have something to
// guard; empty = they do not.
func (o Options) fleetToken() string {
	if o.AskACLs || len(o.Tenants) > 0 {
		return "the-token-of-the-fleet-of-this-world"
	}
	return ""
}

// zone is that of the node with an index.
func (o Options) zone(role string, index int) string {
	if role != "gateway" || index >= len(o.Zones) {
		return ""
	}
	return o.Zones[index]
}

// A World is a running federation. Its nodes may be killed and started again by
// one goroutine at a time.
type World struct {
	// Real tells the two kinds apart, for what only one of them can do.
	Real        bool
	Gateways    []*Node
	Controllers []*Node
	NameServer  *Node
	// Clusters are the physical clusters.
	Clusters []Cluster
	// Redis can be taken away and brought back.
	Redis Redis
	// Client calls HTTP servers by HTTP/2 without TLS, so that streams work.
	Client *http.Client

	t TB
	// startCluster starts a physical cluster that is not registered.
	startCluster func(t TB, name string) Cluster
}

// A Cluster is a physical cluster: what a test may look at, and no client may see.
type Cluster struct {
	Name      string
	Seeds     []string
	ClusterID string
	// Kill and Restart end a real cluster and start it again; nil for an embedded one.
	Kill    func()
	Restart func()
	// Fake is an embedded cluster, for faults; nil for a real one.
	Fake *kfake.Cluster
}

// Down takes a cluster away, with a kill if it is a real one; up brings it back with all
// its data.
func (c Cluster) Down() (up func()) {
	if c.Fake == nil {
		c.Kill()
		return c.Restart
	}
	var off atomic.Bool
	off.Store(true)
	c.Fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		if !off.Load() {
			return nil, nil, false
		}
		c.Fake.KeepControl()
		return nil, errDown, true
	})
	return func() { off.Store(false) }
}

// errDown breaks connections.
var errDown = errors.New("the cluster is down")

// StartCluster starts one more physical cluster, which is not registered. It ends
// with the world.
func (w *World) StartCluster(name string) Cluster {
	w.t.Helper()
	c := w.startCluster(w.t, name)
	w.Clusters = append(w.Clusters, c)
	return c
}

// RemoveCluster has the federation forget a cluster, which runs on.
func (w *World) RemoveCluster(name string) {
	w.t.Helper()
	w.MustBraid(w.t, "", "cluster", "remove", name)
	w.Clusters = slices.DeleteFunc(w.Clusters, func(c Cluster) bool { return c.Name == name })
}

// AddCluster starts one more physical cluster and registers it.
func (w *World) AddCluster(name string) Cluster {
	w.t.Helper()
	c := w.StartCluster(name)
	w.MustBraid(w.t, "", "cluster", "add", name, "--seeds", strings.Join(c.Seeds, ","))
	return c
}

// Redis is the store as an operator sees it.
type Redis interface {
	// Down makes it unreachable or unable to serve.
	Down()
	// Up brings it back with all data.
	Up()
	// Wipe makes it lose all data; it serves on, empty.
	Wipe()
	// URL is where it is.
	URL() string
}

// A Node is a process of a federation.
type Node struct {
	ID string
	// Zone is where a gateway stands; empty = nowhere.
	Zone string
	// Connect, Kafka and Ops are addresses (host:port); a name service's Kafka is its
	// bootstrap. They stay the same over a restart.
	Connect, Kafka, Ops string
	// Tenants are the listeners of a gateway for clients of tenants.
	Tenants map[string]string

	role  string
	proc  nodeProcess
	start func(*Node) (nodeProcess, error)
}

// nodeProcess is one life of a node.
type nodeProcess interface {
	Running() bool
	Kill()
	Stop() error
}

// URL is the base URL of the node's Connect API.
func (n *Node) URL() string { return "http://" + n.Connect }

// Running reports whether the node has not ended.
func (n *Node) Running() bool { return n.proc != nil && n.proc.Running() }

// Kill ends the node as its death would: SIGKILL for a real process.
func (n *Node) Kill() { n.proc.Kill() }

// Stop ends the node gracefully.
func (n *Node) Stop() error { return n.proc.Stop() }

// Start starts a node that has ended, with the same id and addresses, and returns when it is ready.
func (n *Node) Start() error {
	p, err := n.start(n)
	if err != nil {
		return fmt.Errorf("start %s: %w", n.ID, err)
	}
	n.proc = p
	return nil
}

// Freeze stops a real process for a while (SIGSTOP); Thaw lets it go on.
func (n *Node) Freeze() error { return n.signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (n *Node) Thaw() error { return n.signal(syscall.SIGCONT) }

func (n *Node) signal(s syscall.Signal) error {
	pid := n.PID()
	if pid == 0 {
		return fmt.Errorf("%s has no process of its own", n.ID)
	}
	if err := syscall.Kill(pid, s); err != nil {
		return fmt.Errorf("%s to %s: %w", s, n.ID, err)
	}
	return nil
}

// PID is the id of the node's own process; 0 in an embedded world.
func (n *Node) PID() int {
	if p, ok := n.proc.(interface{ PID() int }); ok {
		return p.PID()
	}
	return 0
}

// New starts an embedded world, or a real one.
func New(t TB, isReal bool, o Options) *World {
	t.Helper()
	if isReal {
		return Real(t, o)
	}
	return Embedded(t, o)
}

// KafkaAddresses returns the Kafka facades of the running gateways.
func (w *World) KafkaAddresses() []string {
	var all []string
	for _, g := range w.Gateways {
		if g.Running() {
			all = append(all, g.Kafka)
		}
	}
	return all
}

// API is the base URL of the first running gateway's Connect API.
func (w *World) API() string {
	for _, g := range w.Gateways {
		if g.Running() {
			return g.URL()
		}
	}
	return ""
}

// Gateway returns the gateway with an id.
func (w *World) Gateway(id string) *Node {
	for _, g := range w.Gateways {
		if g.ID == id {
			return g
		}
	}
	w.t.Fatalf("no gateway has the id %q", id)
	return nil
}

// Physical returns a Kafka client of a physical cluster.
func (w *World) Physical(t TB, name string) *kgo.Client {
	t.Helper()
	for _, c := range w.Clusters {
		if c.Name != name {
			continue
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(c.Seeds...))
		if err != nil {
			t.Fatalf("client of cluster %q: %v", name, err)
		}
		t.Cleanup(client.Close)
		return client
	}
	t.Fatalf("no physical cluster is named %q", name)
	return nil
}

// Braid runs the command line of the built binary against the API, and returns
// what it printed. stdin may be empty.
func (w *World) Braid(ctx context.Context, stdin string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, Binary(w.t), args...)
	cmd.Env = append(os.Environ(), "BRAID_API="+w.API())
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// MustBraid is Braid for a command that must succeed; it returns its output.
func (w *World) MustBraid(t TB, stdin string, args ...string) string {
	t.Helper()
	Binary(t) // building it is not the command's time
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	out, errs, err := w.Braid(ctx, stdin, args...)
	if err != nil {
		t.Fatalf("braid %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

var binary struct {
	once sync.Once
	path string
	err  error
}

// Binary builds the braid command once for each test process and returns its path.
func Binary(t TB) string {
	t.Helper()
	binary.once.Do(func() {
		// Not among the downloads, which checkouts may share.
		binary.path = filepath.Join(realparts.Root(), ".cache", "bin", "braid")
		if err := os.MkdirAll(filepath.Dir(binary.path), 0o755); err != nil {
			binary.err = err
			return
		}
		binary.err = realparts.Output(realparts.Root(), "go", "build", "-o", binary.path, "./cmd/braid")
	})
	if binary.err != nil {
		t.Fatalf("build braid: %v", binary.err)
	}
	return binary.path
}

// newClient speaks HTTP/2 without TLS.
func newClient() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

// startAll starts nodes together.
func startAll(nodes []*Node) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.Start() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
