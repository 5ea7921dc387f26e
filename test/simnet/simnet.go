// Package simnet is a network in memory, for federations that run in the virtual
// time of a testing/synctest bubble. Its connections are buffered and know
// deadlines; each link from one host to another has a latency of its own, and can be
// cut, held, delayed or made to lose what it carries.
//
// All waiting is on channels and timers, and no lock is held meanwhile, so that the
// clock of a bubble goes on.
package simnet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// firstPort is the first of those that are given to listeners that want any.
	firstPort = 20001
	// backlog bounds the connections that a listener has not accepted yet.
	backlog = 1024
	// DialTimeout bounds an attempt to connect, as the dialers of most programs do.
	DialTimeout = 3 * time.Second
)

// A Network connects hosts. It is safe for concurrent use.
type Network struct {
	latency func(from, to string) time.Duration

	mu        sync.Mutex // guards the following
	listeners map[string]*listener
	nextPort  map[string]int
	dialed    int
	conns     []*pair // in the order of their making
	rules     []*rule
	changed   chan struct{} // closed when rules change
}

// A pair is both ends of a connection.
type pair struct {
	dialer, listener string // hosts
	there, back      *half
}

// An effect is what happens to the bytes of a link.
type effect int8

const (
	hold effect = iota + 1
	drop
	slow
	refuse
)

// A rule has an effect on all links from hosts to others, whose names are patterns.
type rule struct {
	effect   effect
	from, to string
	delay    time.Duration
}

func (r *rule) matches(from, to string) bool { return match(r.from, from) && match(r.to, to) }

func match(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// New makes a network. Nil latency is Distinct.
func New(latency func(from, to string) time.Duration) *Network {
	if latency == nil {
		latency = Distinct
	}
	return &Network{
		latency: latency, listeners: make(map[string]*listener), nextPort: make(map[string]int), changed: make(chan struct{}),
	}
}

// Distinct is a latency of one to two milliseconds that differs for each link: no
// two of them deliver at the same instant, so the clock of a bubble puts events into
// an order that the scheduler has no say in.
func Distinct(from, to string) time.Duration {
	h := sha256.Sum256([]byte(from + ">" + to))
	return time.Millisecond + time.Duration(binary.BigEndian.Uint16(h[:]))*15*time.Nanosecond
}

// A Host is a name on a network.
type Host struct {
	net  *Network
	name string
}

// Host returns the host of a name.
func (n *Network) Host(name string) *Host { return &Host{n, name} }

// Hold keeps all bytes from some hosts to others, on present and future
// connections, until it is released; then they arrive. New connections wait.
func (n *Network) Hold(from, to string) (release func()) {
	return n.add(&rule{effect: hold, from: from, to: to})
}

// HoldHost cuts a host off silently, both ways.
func (n *Network) HoldHost(name string) (release func()) {
	out, in := n.Hold(name, "*"), n.Hold("*", name)
	return func() { out(); in() }
}

// Partition cuts some hosts off from others silently, both ways.
func (n *Network) Partition(a, b string) (release func()) {
	there, back := n.Hold(a, b), n.Hold(b, a)
	return func() { there(); back() }
}

// Drop loses all bytes from some hosts to others. What lost some is reset when it
// is released, as nothing can follow them.
func (n *Network) Drop(from, to string) (release func()) {
	return n.add(&rule{effect: drop, from: from, to: to})
}

// Delay adds to the latency from some hosts to others.
func (n *Network) Delay(from, to string, d time.Duration) (release func()) {
	return n.add(&rule{effect: slow, from: from, to: to, delay: d})
}

// Refuse resets the connections that some hosts have made to others, and refuses
// new ones.
func (n *Network) Refuse(from, to string) (release func()) {
	release = n.add(&rule{effect: refuse, from: from, to: to})
	n.Cut(from, to)
	return release
}

func (n *Network) add(r *rule) (release func()) {
	n.mu.Lock()
	n.rules = append(n.rules, r)
	n.applyLocked()
	n.mu.Unlock()
	return func() {
		n.mu.Lock()
		n.rules = slices.DeleteFunc(n.rules, func(o *rule) bool { return o == r })
		n.applyLocked()
		n.mu.Unlock()
	}
}

// applyLocked tells all connections what the rules say.
func (n *Network) applyLocked() {
	for _, p := range n.conns {
		n.applyToLocked(p)
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *Network) applyToLocked(p *pair) {
	lost := false
	for _, h := range []*half{p.there, p.back} {
		s := n.stateLocked(h.from, h.to)
		h.set(func(h *half) {
			lost = lost || h.lost && !s.dropped
			h.state = s
		})
	}
	if lost {
		p.reset()
	}
}

// A linkState is what the rules say of a link.
type linkState struct {
	held, dropped bool
	delay         time.Duration
}

func (n *Network) stateLocked(from, to string) (s linkState) {
	for _, r := range n.rules {
		if !r.matches(from, to) {
			continue
		}
		switch r.effect {
		case hold:
			s.held = true
		case drop:
			s.dropped = true
		case slow:
			s.delay += r.delay
		case refuse:
		}
	}
	return s
}

// Cut resets all connections that some hosts have made to others, and returns how
// many. What is on the way is lost.
func (n *Network) Cut(from, to string) int {
	pairs := n.between(from, to)
	for _, p := range pairs {
		p.reset()
	}
	return len(pairs)
}

// CutOne resets one of those connections, the i-th modulo their number.
func (n *Network) CutOne(from, to string, i int) bool {
	pairs := n.between(from, to)
	if len(pairs) == 0 {
		return false
	}
	pairs[i%len(pairs)].reset()
	return true
}

// Conns counts the connections that some hosts have made to others.
func (n *Network) Conns(from, to string) int { return len(n.between(from, to)) }

func (n *Network) between(from, to string) (all []*pair) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = slices.DeleteFunc(n.conns, (*pair).over)
	for _, p := range n.conns {
		if match(from, p.dialer) && match(to, p.listener) {
			all = append(all, p)
		}
	}
	return all
}

// Listen listens on a port of the host; port 0 is any. The host in the address
// counts for nothing.
func (h *Host) Listen(network, address string) (net.Listener, error) {
	port, err := portOf(address)
	if err != nil {
		return nil, err
	}
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == 0 {
		port = firstPort + n.nextPort[h.name]
		n.nextPort[h.name]++
	}
	at := addr{h.name, port}
	if n.listeners[at.String()] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: at, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{net: n, at: at, queue: make(chan *conn, backlog), done: make(chan struct{})}
	n.listeners[at.String()] = l
	return l, nil
}

// Dial connects to an address. It takes a round trip, and DialTimeout at most.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: named(address), Err: err}
	}
	to, _, err := net.SplitHostPort(address)
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	delay, refused, err := h.net.awaitWay(ctx, h.name, to)
	if err != nil {
		return fail(os.ErrDeadlineExceeded)
	}
	if !sleep(ctx, delay) {
		return fail(os.ErrDeadlineExceeded)
	}
	if refused {
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	c, err := h.net.connect(h.name, to, address)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// awaitWay waits until two hosts reach each other, and returns the time of a round
// trip, and whether connections are refused.
func (n *Network) awaitWay(ctx context.Context, from, to string) (time.Duration, bool, error) {
	for {
		n.mu.Lock()
		there, back, changed := n.stateLocked(from, to), n.stateLocked(to, from), n.changed
		refused := slices.ContainsFunc(n.rules, func(r *rule) bool { return r.effect == refuse && r.matches(from, to) })
		n.mu.Unlock()
		if !there.held && !back.held && !there.dropped && !back.dropped {
			return n.latency(from, to) + n.latency(to, from) + there.delay + back.delay, refused, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
}

func (n *Network) connect(from, to, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[address]
	if l == nil {
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	const firstDialed = 40001
	local := addr{from, firstDialed + n.dialed}
	n.dialed++
	p := &pair{
		dialer: from, listener: to,
		there: newHalf(from, to, n.latency(from, to)), back: newHalf(to, from, n.latency(to, from)),
	}
	n.applyToLocked(p)
	theirs := &conn{local: l.at, remote: local, in: p.there, out: p.back}
	select {
	case l.queue <- theirs:
	default:
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	n.conns = append(n.conns, p)
	const pruneAt = 4096
	if len(n.conns) > pruneAt {
		n.conns = slices.DeleteFunc(n.conns, (*pair).over)
	}
	return &conn{local: local, remote: l.at, in: p.back, out: p.there}, nil
}

func portOf(address string) (int, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0, fmt.Errorf("address %q: %w", address, err)
	}
	return n, nil
}

// An addr is a host and a port.
type addr struct {
	host string
	port int
}

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// A named address is one that may not exist.
type named string

func (named) Network() string  { return "tcp" }
func (a named) String() string { return string(a) }

type listener struct {
	net   *Network
	at    addr
	queue chan *conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.at, Err: net.ErrClosed}
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.at, Err: net.ErrClosed}
	}
}

// Close also resets what was not accepted.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.at.String())
		l.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.queue:
				c.in.reset()
				c.out.reset()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return l.at }

// sleep reports whether it slept through.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
