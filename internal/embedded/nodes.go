package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/redisstore"
	"github.com/braidmq/braid/internal/security"
)

// Gateways returns all gateways in the order of their start, ended ones too.
func (f *Federation) Gateways() []*Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.gateways)
}

// Gateway returns the gateway of an index, ended or not.
func (f *Federation) Gateway(i int) *Node { return f.Gateways()[i] }

// Controllers returns all controllers in the order of their start, ended ones too.
func (f *Federation) Controllers() []*Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.controllers)
}

// NameServers returns all name services in the order of their start.
func (f *Federation) NameServers() []*Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.nameservers)
}

// KafkaAddresses returns the Kafka facades of the running gateways.
func (f *Federation) KafkaAddresses() []string {
	var all []string
	for _, g := range f.Gateways() {
		if g.Running() {
			all = append(all, g.KafkaAddress())
		}
	}
	return all
}

// APIURL is the Connect API of the first running gateway; empty if there is none.
func (f *Federation) APIURL() string {
	for _, g := range f.Gateways() {
		if g.Running() {
			return g.URL()
		}
	}
	return ""
}

// AddGateway starts one more gateway and waits until all are ready.
func (f *Federation) AddGateway(ctx context.Context) (*Node, error) {
	n, err := f.launchGateway()
	if err != nil {
		return nil, err
	}
	return n, f.AwaitReady(ctx)
}

// KillGateway ends a gateway as its death would: connections are cut, nobody is told.
func (f *Federation) KillGateway(i int) { f.Gateway(i).Kill() }

// StopGateway ends a gateway gracefully.
func (f *Federation) StopGateway(i int) error { return f.Gateway(i).Stop() }

// KillController ends a controller as its death would.
func (f *Federation) KillController(i int) { f.Controllers()[i].Kill() }

func (f *Federation) launchGateway() (*Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.launchLocked(f.config(process.Gateway, len(f.gateways)), len(f.gateways))
	if err == nil {
		f.gateways = append(f.gateways, n)
	}
	return n, err
}

// AddController starts one more controller.
func (f *Federation) AddController() (*Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.launchLocked(f.config(process.Controller, len(f.controllers)), len(f.controllers))
	if err == nil {
		f.controllers = append(f.controllers, n)
	}
	return n, err
}

// AddNameServer starts one more name service.
func (f *Federation) AddNameServer() (*Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.launchLocked(f.config(process.NameServer, len(f.nameservers)), len(f.nameservers))
	if err == nil {
		f.nameservers = append(f.nameservers, n)
	}
	return n, err
}

func (f *Federation) config(role process.Role, index int) process.Config {
	c := process.Config{
		Role: role, ID: fmt.Sprintf("%s-%d", role, index), Build: f.opts.Build,
		Redis:  redisstore.Config{URL: f.redisURL, Prefix: f.opts.RedisPrefix},
		Listen: "127.0.0.1:0", Listener: f.opts.Listen, Dialer: f.opts.Dial,
		Telemetry: f.telemetry, Logger: f.opts.Logger, Access: process.Access{FleetToken: f.opts.FleetToken, CA: f.opts.FleetCA},
	}
	for _, n := range f.controllers {
		c.Controllers = append(c.Controllers, n.URL())
	}
	switch role {
	case process.Gateway:
		c.KafkaListen = "127.0.0.1:0"
	case process.NameServer:
		c.BootstrapListen = "127.0.0.1:0"
	case process.Controller:
		c.Controllers = nil
	}
	return c
}

// launchLocked runs a process; one that fails by itself is told to Failed.
func (f *Federation) launchLocked(c process.Config, index int) (*Node, error) {
	if f.opts.Configure != nil {
		f.opts.Configure(&c, index)
	}
	root := context.Background()
	p, err := process.New(root, c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(root)
	n := &Node{Process: p, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(n.done)
		n.err = p.Run(ctx)
		// Without an error it was asked to drain, and has.
		if n.err != nil && ctx.Err() == nil && !errors.Is(n.err, lifecycle.ErrAborted) {
			select {
			case f.failed <- fmt.Errorf("%s: %w", p.ID(), n.err):
			default: // an earlier failure is being told
			}
		}
	}()
	return n, nil
}

// Close ends everything: gateways and name services gracefully and together,
// then controllers, then Redis and the clusters.
func (f *Federation) Close() error {
	f.mu.Lock()
	doors, controllers := slices.Concat(f.gateways, f.nameservers), f.controllers
	f.mu.Unlock()
	errs := append(stopAll(doors), stopAll(controllers)...)
	f.Client.CloseIdleConnections()
	for _, k := range f.embedded {
		k.Close()
	}
	if f.Redis != nil {
		errs = append(errs, f.Redis.Close())
	}
	if f.ownsTele && f.telemetry != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		errs = append(errs, f.telemetry.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// stopAll stops processes together. Errors of those that were killed don't count.
func stopAll(nodes []*Node) []error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := n.Stop(); err != nil && !errors.Is(err, lifecycle.ErrAborted) {
				errs[i] = fmt.Errorf("%s: %w", n.ID(), err)
			}
		})
	}
	wg.Wait()
	return errs
}

// httpClient speaks HTTP/2, without TLS by prior knowledge.
func httpClient(dial func(ctx context.Context, network, address string) (net.Conn, error), token, ca string, log *slog.Logger) (*http.Client, error) {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	secure, err := security.TLSFiles{}.Client(log, ca)
	if err != nil {
		return nil, err
	}
	var transport http.RoundTripper = security.NewTransport(secure, func(secure *tls.Config) *http.Transport {
		return &http.Transport{
			DialContext: dial, Protocols: protocols, TLSClientConfig: secure, IdleConnTimeout: 5 * time.Minute,
			HTTP2: &http.HTTP2Config{MaxReadFrameSize: 1 << 20, SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		}
	})
	if token != "" {
		transport = &tokenTransport{transport, token}
	}
	return &http.Client{Transport: transport}, nil
}

// A tokenTransport shows the fleet's token.
type tokenTransport struct {
	http.RoundTripper
	token string
}

func (t *tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.token)
	return t.RoundTripper.RoundTrip(r)
}

// CloseIdleConnections is what http.Client looks for.
func (t *tokenTransport) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// A TB is what New needs of a test.
type TB interface {
	Helper()
	Cleanup(f func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Context() context.Context
}

// New starts a federation for a test, and ends it with the test. An end that is
// not clean fails the test.
func New(t TB, o Options) *Federation {
	t.Helper()
	f, err := Start(t.Context(), o)
	if err != nil {
		t.Fatalf("embedded federation: %v", err)
		return nil
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("embedded federation: %v", err)
		}
	})
	return f
}
