package kafkacompat_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/federation/federationtest"
	"github.com/braidmq/braid/gateway/groups"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/security"
	"github.com/braidmq/braid/internal/upstream"
	"github.com/braidmq/braid/kafkacompat"
)

type producerIDs struct{ n atomic.Int64 }

func (i *producerIDs) NextProducerID(context.Context) (int64, error) { return 1<<48 + i.n.Add(1), nil }

// world is a server over the real router and two embedded clusters.
type world struct {
	engines []*groups.Engine // of the gateways, in the order they came
	*federationtest.World
	t        testing.TB
	router   *router.Router
	redis    *miniredis.Miniredis
	clusters map[string]*kfake.Cluster
	admins   map[string]*kadm.Client
	servers  []*kafkacompat.Server
	metrics  *kafkacompat.Metrics
	// authorizer decides for all servers; nil = everything is allowed.
	authorizer *acl.Authorizer
	quotas     *quota.Config // of a limiter of all servers; nil = quotas do not count
	limiter    *quota.Limiter
	requests   *memory.Budget // of gateways that are added; nil = their own
	room       *groups.Room   // likewise
	answers    *memory.Budget // likewise
	addr       string         // of the first server

	// Set before addGateway, for gateways that ask who clients are.
	auth         *security.Authenticator
	tls          *tls.Config
	certificates func(*x509.Certificate) (security.Principal, error)

	mu sync.Mutex // serialises topic changes

	panics panicLog
}

// A panicLog notes the first panic that a server has caught: it closes the connection,
// and goes on, so that nothing else tells.
type panicLog struct{ first atomic.Pointer[string] }

func (*panicLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *panicLog) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "panic") {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool {
			text += "\n" + a.String()
			return true
		})
		l.first.CompareAndSwap(nil, &text)
	}
	return nil
}

func (l *panicLog) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *panicLog) WithGroup(string) slog.Handler { return l }

// requireNoPanic is for fuzz targets, which must name the input.
func (w *world) requireNoPanic(t *testing.T) {
	t.Helper()
	if text := w.panics.first.Load(); text != nil {
		t.Fatal(*text)
	}
}

type option func(*kafkacompat.Config)

// newWorld starts one gateway.
func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	return newWorldMeasured(t, nil, opts...)
}

func newWorldMeasured(t testing.TB, metrics *kafkacompat.Metrics, opts ...option) *world {
	t.Helper()
	return startWorld(t, &world{metrics: metrics}, opts...)
}

func startWorld(t testing.TB, given *world, opts ...option) *world {
	t.Helper()
	w := &world{metrics: given.metrics, room: given.room, authorizer: given.authorizer, quotas: given.quotas, t: t, redis: miniredis.RunT(t), clusters: make(map[string]*kfake.Cluster), admins: make(map[string]*kadm.Client)}
	seeds := make(map[string][]string)
	for _, name := range []string{"a", "b"} {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("physical-"+name))
		require.NoError(t, err)
		t.Cleanup(c.Close)
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
		require.NoError(t, err)
		t.Cleanup(cl.Close)
		w.clusters[name], w.admins[name], seeds[name] = c, kadm.NewClient(cl), c.ListenAddrs()
	}
	w.World = federationtest.New(seeds)
	if w.quotas != nil {
		var err error
		w.limiter, err = quota.New(*w.quotas, w, nil, noop.Meter{})
		require.NoError(t, err)
	}
	pool := upstream.NewPool(upstream.Config{})
	t.Cleanup(pool.Close)
	pool.Update(slices.Collect(maps.Values(w.Current().Clusters)))
	w.router = router.New(t.Context(), router.Config{}, router.Deps{Maps: w, Clusters: pool, Lease: w, ProducerIDs: &producerIDs{}})
	t.Cleanup(w.router.Close)
	w.addr = w.addGateway("gw-0", 1, "", opts...)
	return w
}

// addGateway starts a server and puts its gateway into the map.
func (w *world) addGateway(id federation.GatewayID, node federation.NodeID, zone string, opts ...option) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	cfg := kafkacompat.Config{GatewayID: id}
	for _, o := range opts {
		o(&cfg)
	}
	s, err := kafkacompat.New(cfg, kafkacompat.Deps{
		Maps: w, NewSession: w.router.NewSession, Groups: w.newCoordinator(id), Authorizer: w.authorizer, Admin: w, Credentials: w, Limiter: w.limiter,
		Auth: w.auth, TLS: w.tls, Certificates: w.certificates, Metrics: w.metrics, Requests: w.requests, Answers: w.answers, Logger: slog.New(&w.panics),
	})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	w.t.Cleanup(func() {
		cancel()
		require.NoError(w.t, <-done)
		require.Nil(w.t, w.panics.first.Load())
		require.Eventually(w.t, func() bool { return s.BytesInUse()+s.AnswersInUse() == 0 }, 10*time.Second, time.Millisecond, "buffers, or room for answers, are lost")
	})
	w.servers = append(w.servers, s)
	w.Change(func(m *federation.Map) {
		m.Gateways = slices.DeleteFunc(m.Gateways, func(g *federation.Gateway) bool { return g.ID == id })
		m.Gateways = append(m.Gateways, &federation.Gateway{ID: id, NodeID: node, KafkaAddress: l.Addr().String(), Zone: zone, State: federation.GatewayReady})
	})
	return l.Addr().String()
}

// listen opens another port of the first server, on which all clients are principal.
func (w *world) listen(principal string) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(security.WithPrincipal(context.Background(), security.User(principal)))
	done := make(chan error, 1)
	go func() { done <- w.servers[0].Serve(ctx, l) }()
	w.t.Cleanup(func() {
		cancel()
		require.NoError(w.t, <-done)
	})
	return l.Addr().String()
}

// The world's topics: partition i of a topic lies on cluster a or b in turn, in
// partition i of a physical topic.

func physical(name federation.TopicName) string { return "phys." + string(name) + ".0" }

func clusterOf(p int) string { return string(rune('a' + p%2)) }

func (w *world) create(name string, partitions int, config map[string]string) {
	w.t.Helper()
	require.NoError(w.t, w.CreateTopic(w.t.Context(), kafkacompat.TopicSpec{Name: federation.TopicName(name), Partitions: int32(partitions), ReplicationFactor: 1, Config: config}))
}

// CreateTopic implements kafkacompat.Admin.
func (w *world) CreateTopic(ctx context.Context, spec kafkacompat.TopicSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Current().Topics[spec.Name] != nil {
		return federation.Errorf(federation.TopicExists, "topic %q exists already", spec.Name)
	}
	if err := checkConfig(spec.Config); err != nil || spec.ValidateOnly {
		return err
	}
	config := make(map[string]*string)
	for k, v := range spec.Config {
		config[k] = new(v)
	}
	for _, a := range w.admins {
		r, err := a.CreateTopic(ctx, spec.Partitions, 1, config, physical(spec.Name))
		if err != nil {
			return federation.Errorf(federation.InvalidConfig, "create topic %q: %s", spec.Name, r.ErrMessage)
		}
	}
	w.setTopic(spec.Name, spec.Config, int(spec.Partitions), spec.ReplicationFactor)
	return nil
}

// checkConfig stands for a broker's check, which the embedded ones lack.
func checkConfig(config map[string]string) error {
	if v, ok := config["retention.ms"]; ok {
		if _, err := strconv.Atoi(v); err != nil {
			return federation.Errorf(federation.InvalidConfig, "retention.ms %q is no number", v)
		}
	}
	return nil
}

func (w *world) setTopic(name federation.TopicName, config map[string]string, partitions int, rf int16) {
	chains := make([][]*federation.Extent, partitions)
	for i := range chains {
		chains[i] = []*federation.Extent{federationtest.Head(clusterOf(i), physical(name), i)}
	}
	w.SetTopic(string(name), config, chains...)
	w.Change(func(m *federation.Map) {
		t := *m.Topics[name]
		t.ReplicationFactor = int32(rf)
		m.Topics[name] = &t
	})
}

// DeleteTopic implements kafkacompat.Admin.
func (w *world) DeleteTopic(ctx context.Context, name federation.TopicName) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Current().Topics[name] == nil {
		return federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
	}
	for _, a := range w.admins {
		if _, err := a.DeleteTopic(ctx, physical(name)); err != nil {
			return federation.Errorf(federation.ClusterUnavailable, "delete topic %q", name).WithCause(err)
		}
	}
	w.Change(func(m *federation.Map) { delete(m.Topics, name) })
	return nil
}

// GrowTopic implements kafkacompat.Admin.
func (w *world) GrowTopic(ctx context.Context, name federation.TopicName, total int32, validateOnly bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.Current().Topics[name]
	if t == nil {
		return federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
	}
	if validateOnly {
		return nil
	}
	for _, a := range w.admins {
		if _, err := a.UpdatePartitions(ctx, int(total), physical(name)); err != nil {
			return federation.Errorf(federation.ClusterUnavailable, "grow topic %q", name).WithCause(err)
		}
	}
	w.setTopic(name, t.Config, int(total), int16(t.ReplicationFactor))
	return nil
}

// SetTopicConfig implements kafkacompat.Admin.
func (w *world) SetTopicConfig(ctx context.Context, name federation.TopicName, set map[string]string, unset []string, validateOnly bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.Current().Topics[name]
	if t == nil {
		return federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
	}
	if err := checkConfig(set); err != nil {
		return err
	}
	config := maps.Clone(t.Config)
	if config == nil {
		config = make(map[string]string)
	}
	var alter []kadm.AlterConfig
	for k, v := range set {
		config[k] = v
		alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	for _, k := range unset {
		delete(config, k)
		alter = append(alter, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
	}
	for _, a := range w.admins {
		r, err := a.AlterTopicConfigs(ctx, alter, physical(name))
		if err != nil {
			return federation.Errorf(federation.ClusterUnavailable, "configure topic %q", name).WithCause(err)
		}
		if r[0].Err != nil {
			return federation.Errorf(federation.InvalidConfig, "topic %q: %s", name, r[0].ErrMessage)
		}
	}
	if !validateOnly {
		w.setTopic(name, config, len(t.Partitions), int16(t.ReplicationFactor))
	}
	return nil
}

// TopicConfig implements kafkacompat.Admin.
func (w *world) TopicConfig(_ context.Context, name federation.TopicName) (map[string]kafkacompat.ConfigValue, error) {
	t := w.Current().Topics[name]
	if t == nil {
		return nil, federation.Errorf(federation.UnknownTopic, "topic %q does not exist", name)
	}
	out := make(map[string]kafkacompat.ConfigValue)
	for k, v := range t.Config {
		out[k] = kafkacompat.ConfigValue{Value: v}
	}
	return out, nil
}

// CreateACLs implements kafkacompat.Admin.
func (w *world) CreateACLs(_ context.Context, acls []*federation.ACL) (federation.MapVersion, error) {
	w.Change(func(m *federation.Map) { m.ACLs = planner.WithACLs(m, acls, nil).ACLs })
	return w.Current().Version, nil
}

// DeleteACLs implements kafkacompat.Admin.
func (w *world) DeleteACLs(_ context.Context, filters []federation.ACLFilter) ([][]*federation.ACL, federation.MapVersion, error) {
	var out [][]*federation.ACL
	w.Change(func(m *federation.Map) {
		var ids []federation.ACLID
		for _, f := range filters {
			var found []*federation.ACL
			for id, a := range m.ACLs {
				if f.Matches(a) {
					found, ids = append(found, a), append(ids, id)
				}
			}
			out = append(out, found)
		}
		m.ACLs = planner.WithACLs(m, nil, ids).ACLs
	})
	return out, w.Current().Version, nil
}

// AlterQuotas implements kafkacompat.Admin.
func (w *world) AlterQuotas(_ context.Context, changes []federation.QuotaChange, validateOnly bool) (federation.MapVersion, error) {
	next, err := planner.WithQuotas(w.Current(), changes)
	if err == nil && !validateOnly {
		w.Change(func(m *federation.Map) { m.Quotas = next.Quotas })
	}
	return w.Current().Version, err
}

// AlterGroupConfig implements kafkacompat.Admin.
func (w *world) AlterGroupConfig(_ context.Context, change *federation.GroupConfigChange, validateOnly bool) (federation.MapVersion, error) {
	next, err := planner.WithGroupConfig(w.Current(), change)
	if err == nil && !validateOnly {
		w.Change(func(m *federation.Map) { m.GroupConfigs = next.GroupConfigs })
	}
	return w.Current().Version, err
}

// client makes a franz-go client of the facade.
func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.addr)}, opts...)...)
	require.NoError(w.t, err)
	w.t.Cleanup(cl.Close)
	return cl
}

// raw is a connection that speaks frames.
type raw struct {
	t    testing.TB
	c    net.Conn
	r    *bufio.Reader
	corr int32
}

func (w *world) dial() *raw { return dial(w.t, w.addr) }

func dial(t testing.TB, addr string) *raw {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
	return &raw{t: t, c: c, r: bufio.NewReader(c)}
}

// send writes a request at a version and returns its correlation id.
func (r *raw) send(req kmsg.Request, version int16) int32 {
	r.t.Helper()
	req.SetVersion(version)
	r.corr++
	b := kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, r.corr)
	_, err := r.c.Write(b)
	require.NoError(r.t, err)
	return r.corr
}

// frame reads one response frame and returns correlation id and the rest.
func (r *raw) frame() (int32, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r.r, b); err != nil {
		return 0, nil, err
	}
	return int32(binary.BigEndian.Uint32(b)), b[4:], nil
}

// receive reads the response to req.
func (r *raw) receive(req kmsg.Request, corr int32) kmsg.Response {
	r.t.Helper()
	got, b, err := r.frame()
	require.NoError(r.t, err, "%s v%d", kmsg.NameForKey(req.Key()), req.GetVersion())
	require.Equal(r.t, corr, got)
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		require.NotEmpty(r.t, b)
		require.Zero(r.t, b[0], "header tags")
		b = b[1:]
	}
	require.NoError(r.t, resp.ReadFrom(b), "%s v%d", kmsg.NameForKey(req.Key()), req.GetVersion())
	require.Equal(r.t, b, resp.AppendTo(nil), "%s v%d: bytes are left over", kmsg.NameForKey(req.Key()), req.GetVersion())
	return resp
}

func exchange[R kmsg.Response](r *raw, req kmsg.Request, version int16) R {
	r.t.Helper()
	return r.receive(req, r.send(req, version)).(R)
}

// closed requires that the server closes the connection without an answer.
func (r *raw) closed(why string) {
	r.t.Helper()
	_, _, err := r.frame()
	require.Error(r.t, err, why)
	if e, ok := errors.AsType[net.Error](err); ok {
		require.False(r.t, e.Timeout(), "still open: %s", why)
	}
}

func sprint(v any) string { return fmt.Sprintf("%+v", v) }
