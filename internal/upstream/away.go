package upstream

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// A contact tells whether the brokers of a cluster answer. It is noted with every
// request, so it takes no lock.
type contact struct {
	began time.Time    // the times below are after it
	tried atomic.Int64 // when a broker was asked last, or dialled; 0 = never
	// since is when a broker was asked, or dialled, first of all that had no answer since
	// one last came; 0 = none has.
	since atomic.Int64
	// cut tells that a broker last closed a connection of the general client in place of
	// an answer to our proof.
	cut atomic.Bool
	// failed is how TLS with a broker, or the proof of who we are, last failed since one last
	// answered a request; nil if neither did.
	failed atomic.Pointer[failure]
}

type failure struct {
	err error
	at  time.Time
}

// noteFailure notes an error of TLS or SASL.
func (c *contact) noteFailure(err error) { c.failed.Store(&failure{err: err, at: time.Now()}) }

// noteTLS notes the error of a dial or a read if it is one of TLS.
func (c *contact) noteTLS(err error) {
	if _, ok := errors.AsType[*tlsError](err); ok || isAlert(err) {
		c.noteFailure(err)
	}
}

// cause returns what an error comes from: whoever tries again until its time is up may end
// in a timeout, which says nothing of the refusals before it, and whoever still writes when
// a broker hangs up may not get to read why.
func (c *contact) cause(err error, within time.Duration) error {
	timeout, ok := errors.AsType[net.Error](err)
	if timedOut := ok && timeout.Timeout(); !timedOut && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	// It may have begun some time before, and its timer may have fired late.
	if failed := c.failed.Load(); failed != nil && time.Since(failed.at) <= 2*within {
		return failed.err
	}
	return err
}

// ask notes that a broker is asked, or dialled.
func (c *contact) ask(now time.Time) {
	at := max(1, int64(now.Sub(c.began)))
	c.tried.Store(at)
	if c.since.Load() == 0 {
		c.since.CompareAndSwap(0, at)
	}
}

// answered notes that a broker of the cluster has answered.
func (c *contact) answered() {
	if c.since.Load() != 0 {
		c.since.Store(0)
	}
}

// away reports whether no broker has answered for a while, although one was asked for
// something all the time. One that nobody has asked for as long as an answer is waited
// for may be back.
func (c *contact) away(now time.Time, after, patience time.Duration) bool {
	since, tried := time.Duration(c.since.Load()), time.Duration(c.tried.Load())
	at := now.Sub(c.began)
	return since != 0 && at-since >= after && at-tried < patience+after
}

// Silent returns for how long the brokers of the cluster have answered nothing, although
// one was asked; zero if there is nothing to answer. It is long, too, if that was long ago.
func (c *Cluster) Silent() time.Duration {
	since := time.Duration(c.contact.since.Load())
	if since == 0 {
		return 0
	}
	return time.Since(c.contact.began) - since
}

// Away returns the clusters of which no broker has answered for AwayAfter, sorted. One
// that nothing was asked of is none of them.
func (p *Pool) Away() []federation.ClusterName {
	p.mu.RLock()
	defer p.mu.RUnlock()
	var names []federation.ClusterName
	now := time.Now()
	for name, c := range p.clusters {
		if c.contact.away(now, p.cfg.AwayAfter, p.cfg.RequestTimeout) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// contactHooks note what the general client asks for and gets.
type contactHooks struct{ c *contact }

var (
	_ kgo.HookBrokerConnect = contactHooks{}
	_ kgo.HookBrokerWrite   = contactHooks{}
	_ kgo.HookBrokerRead    = contactHooks{}
)

func (h contactHooks) OnBrokerConnect(_ kgo.BrokerMetadata, took time.Duration, _ net.Conn, err error) {
	h.c.ask(time.Now().Add(-took))
	h.c.noteTLS(err)
}

func (h contactHooks) OnBrokerWrite(kgo.BrokerMetadata, int16, int, time.Duration, time.Duration, error) {
	h.c.ask(time.Now())
}

func (h contactHooks) OnBrokerRead(_ kgo.BrokerMetadata, key int16, n int, _, _ time.Duration, err error) {
	if err == nil && n > 0 {
		h.c.answered()
		if !opensConnection(key) && h.c.failed.Load() != nil {
			h.c.failed.Store(nil)
		}
	}
	h.c.noteTLS(err)
	if key == kmsg.SASLAuthenticate.Int16() {
		h.c.cut.Store(err != nil && errors.Is(err, io.EOF))
	}
}

// opensConnection reports whether a request comes before all others of a connection: its
// answer does not say that we are let in.
func opensConnection(key int16) bool {
	switch kmsg.Key(key) {
	case kmsg.ApiVersions, kmsg.SASLHandshake, kmsg.SASLAuthenticate:
		return true
	default:
		return false
	}
}

// Disconnect closes the open connections of some uses: what is in flight on them fails
// at once. The next request dials again.
func (c *Cluster) Disconnect(uses ...Use) {
	var slots []*connSlot
	c.connMu.Lock()
	for k, s := range c.conns {
		if slices.Contains(uses, k.use) {
			slots = append(slots, s)
		}
	}
	c.connMu.Unlock()
	for _, s := range slots {
		s.mu.Lock()
		conn := s.conn
		s.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
	}
}
