// Package process wires one process of braid: a gateway, a controller or a name
// service. It is the only package that knows all others; cmd and embedded run
// their processes through it.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/braidmq/braid/internal/lifecycle"
)

// A Process is one role of braid. New opens its listeners, so its addresses are
// known and a port that is taken is found out at once; Run does the work.
type Process struct {
	cfg       Config
	id        string
	log       *slog.Logger
	telemetry *Telemetry
	owned     bool // the telemetry is this process's own

	connect, kafka, bootstrap, ops net.Listener
	tenants                        map[string]net.Listener // of the Kafka facade, by tenant
	access                         *access

	abort     chan struct{}
	abortOnce sync.Once
	stopping  chan struct{} // closed when the process itself asks for its graceful stop
	stopOnce  sync.Once
	cutter    *cutter

	mu     sync.Mutex // guards the following
	checks []Check
	ended  bool
}

// New makes a process and opens its listeners. A process that is never run must
// be given to Close.
func New(ctx context.Context, cfg Config) (*Process, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &Process{cfg: cfg, log: cfg.Logger, telemetry: cfg.Telemetry, abort: make(chan struct{}), stopping: make(chan struct{})}
	p.cutter = newCutter(cfg.Dialer)
	p.cfg = cfg.withDialer(p.cutter.DialContext)
	if err := p.open(ctx); err != nil {
		_ = p.Close()
		return nil, err
	}
	p.id = cfg.ID
	if p.id == "" {
		id, err := defaultID(p.ConnectAddress())
		if err != nil {
			_ = p.Close()
			return nil, err
		}
		p.id = id
	}
	p.log = p.log.With("role", cfg.Role.String(), "id", p.id)
	return p, nil
}

func (p *Process) open(ctx context.Context) error {
	for _, l := range []struct {
		to            *net.Listener
		address, flag string
	}{
		{&p.connect, p.cfg.Listen, "listen"},
		{&p.kafka, p.cfg.KafkaListen, "kafka-listen"},
		{&p.bootstrap, p.cfg.BootstrapListen, "bootstrap-listen"},
		{&p.ops, p.cfg.OpsListen, "ops-listen"},
	} {
		if l.address == "" {
			continue
		}
		listener, err := Listen(p.cfg.Listener, l.address, l.flag)
		if err != nil {
			return err
		}
		*l.to = listener
	}
	p.tenants = make(map[string]net.Listener)
	addresses, flag := p.cfg.tenantListen()
	for _, tenant := range slices.Sorted(maps.Keys(addresses)) {
		l, err := Listen(p.cfg.Listener, addresses[tenant], flag)
		if err != nil {
			return err
		}
		p.tenants[tenant] = l
	}
	var err error
	if p.access, err = p.openAccess(); err != nil {
		return err
	}
	if p.connect, err = p.withTLS(p.connect, p.cfg.Access.Connect, "h2", "http/1.1"); err != nil {
		return err
	}
	if p.ops, err = p.withTLS(p.ops, p.cfg.Access.Ops, "http/1.1"); err != nil {
		return err
	}
	if p.telemetry == nil {
		t, err := NewTelemetry(ctx, p.cfg.Build)
		if err != nil {
			return err
		}
		p.telemetry, p.owned = t, true
	}
	return nil
}

// Listen opens a listener for the address that a flag gave. Its error says which
// flag to change.
func Listen(listen func(network, address string) (net.Listener, error), address, flag string) (net.Listener, error) {
	l, err := listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	return nil, fmt.Errorf("cannot listen on %s: %w; choose another address with --%s", address, err, flag)
}

// ID returns the process's id: configured, or made of host name and port.
func (p *Process) ID() string { return p.id }

// ConnectAddress returns where the Connect API listens; empty if nowhere.
func (p *Process) ConnectAddress() string { return address(p.connect) }

// ConnectURL is the base URL of the Connect API.
func (p *Process) ConnectURL() string { return p.access.scheme() + "://" + p.ConnectAddress() }

// KafkaAddress returns where the Kafka facade listens; empty if nowhere.
func (p *Process) KafkaAddress() string { return address(p.kafka) }

// TenantKafkaAddress returns where the Kafka facade, or the bootstrap, listens for clients of a tenant; empty
// if nowhere.
func (p *Process) TenantKafkaAddress(tenant string) string { return address(p.tenants[tenant]) }

// BootstrapAddress returns where the name service's Kafka bootstrap listens; empty if nowhere.
func (p *Process) BootstrapAddress() string { return address(p.bootstrap) }

// OpsAddress returns where metrics and health are served; empty if nowhere.
func (p *Process) OpsAddress() string { return address(p.ops) }

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// Run works until ctx ends, then stops gracefully: it returns nil, or what went
// wrong. It must be called once.
func (p *Process) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, p.Close()) }()
	root := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	tasks, closers, err := p.tasks(root)
	defer func() {
		for _, closer := range slices.Backward(closers) {
			closer()
		}
	}()
	if err != nil {
		return err
	}
	p.log.Info("started", "connect", p.ConnectAddress(), "kafka", p.KafkaAddress(), "bootstrap", p.BootstrapAddress(), "ops", p.OpsAddress(), "build", p.cfg.Build)
	err = lifecycle.Run(ctx, lifecycle.Config{StopTimeout: p.cfg.StopTimeout, Abort: p.abort, Logger: p.log}, tasks...)
	if errors.Is(err, lifecycle.ErrAborted) {
		return lifecycle.ErrAborted
	}
	p.log.Info("stopped", "err", err)
	return err
}

// Kill makes Run end at once, without a graceful stop: connections are cut, also
// those to Redis and to controllers, so nobody is told. Tests use it as the death
// of a process.
func (p *Process) Kill() {
	p.cutter.cut()
	p.abortOnce.Do(func() { close(p.abort) })
}

// stop makes Run stop gracefully.
func (p *Process) stop() { p.stopOnce.Do(func() { close(p.stopping) }) }

// Close closes what New opened; Run does it at its end.
func (p *Process) Close() error {
	p.mu.Lock()
	ended := p.ended
	p.ended = true
	p.mu.Unlock()
	if ended {
		return nil
	}
	for _, l := range append(slices.Collect(maps.Values(p.tenants)), p.connect, p.kafka, p.bootstrap, p.ops) {
		if l != nil {
			_ = l.Close()
		}
	}
	if p.owned {
		ctx, cancel := context.WithTimeout(context.Background(), p.cfg.AbandonTimeout)
		defer cancel()
		return p.telemetry.Shutdown(ctx)
	}
	return nil
}

// Checks returns what must hold for this process to be ready; none before Run.
func (p *Process) Checks() []Check {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks == nil {
		return []Check{{Name: p.cfg.Role.String(), Err: func(context.Context) error { return errors.New("starting") }}}
	}
	return p.checks
}

func (p *Process) setChecks(checks []Check) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checks = checks
}

// tasks wires the role. The closers are called in reverse order when all tasks
// have ended, also if there is an error.
func (p *Process) tasks(ctx context.Context) (tasks []lifecycle.Task, closers []func(), err error) {
	if p.ops != nil {
		tasks = append(tasks, OpsTask(p.ops, p.telemetry, p.Checks, p.log))
	}
	w := &wiring{Process: p, tasks: tasks}
	switch p.cfg.Role {
	case Gateway:
		err = w.gateway(ctx)
	case Controller:
		err = w.controller(ctx)
	case NameServer:
		err = w.nameserver(ctx)
	}
	return w.tasks, w.closers, err
}

// A wiring collects the parts of a process while they are made.
type wiring struct {
	*Process
	tasks   []lifecycle.Task
	closers []func()
}

func (w *wiring) task(t lifecycle.Task) { w.tasks = append(w.tasks, t) }
func (w *wiring) onEnd(closer func())   { w.closers = append(w.closers, closer) }
