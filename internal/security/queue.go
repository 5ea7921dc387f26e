package security

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/braidmq/braid/federation"
)

// QueueConfig bounds the passwords of a door that wait to be checked: each costs
// thousands of hashes.
type QueueConfig struct {
	// WaitingMax bounds those that wait; 4,096 by default.
	WaitingMax int
	// PerIPMax bounds those of one IP address, or of one /64 of IPv6; 1,024 by default.
	PerIPMax int
	// WaitMax bounds how long one waits; 10 s by default.
	WaitMax time.Duration
}

// Validate refuses what makes no sense.
func (c QueueConfig) Validate() error {
	if c.WaitingMax < 0 || c.PerIPMax < 0 || c.WaitMax < 0 {
		return errors.New("--passwords-waiting, --passwords-waiting-per-ip and --password-wait must not be negative")
	}
	return nil
}

func (c QueueConfig) withDefaults() QueueConfig {
	if c.WaitingMax == 0 {
		c.WaitingMax = 4096
	}
	if c.PerIPMax == 0 {
		c.PerIPMax = 1024
	}
	if c.WaitMax == 0 {
		c.WaitMax = 10 * time.Second
	}
	return c
}

// errBusy is the answer to a password whose turn does not come: it says nothing about
// the password.
var errBusy = busyError("too many passwords are being checked")

// busyRetry is when who was told so may come again.
const busyRetry = time.Second

func busyError(text string) *federation.Error {
	err := federation.Errorf(federation.Throttled, "%s; try again", text)
	err.RetryAfter = busyRetry
	return err
}

// Undecided reports whether an error of an authentication says nothing about what the
// client has shown: it may be right, and the client is to try again. It must not be told
// that it has failed, which is final.
func Undecided(err error) bool {
	kind := federation.KindOf(err)
	return kind == federation.Throttled || kind == federation.StoreUnavailable ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

type sourceKey struct{}

// WithSource returns a context of authentications that come from an IP address: addresses
// take turns.
func WithSource(ctx context.Context, host string) context.Context {
	return context.WithValue(ctx, sourceKey{}, host)
}

// ipv6SourceBits is what one client of IPv6 commonly has for itself.
const ipv6SourceBits = 64

func sourceOf(ctx context.Context) string {
	host, _ := ctx.Value(sourceKey{}).(string)
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Unmap().Is4() {
		return host
	}
	if p, err := ip.WithZone("").Prefix(ipv6SourceBits); err == nil {
		return p.String()
	}
	return host
}

// A queue shares some processors among passwords that wait to be checked. IP addresses
// take turns, and at each of them users do, so that a flood of guesses holds up those who
// come from the same address as the same user, and hardly anybody else. Where places run
// out, who has most of them loses the newest.
type queue struct {
	cfg QueueConfig

	mu      sync.Mutex // guards the following
	free    int        // processors
	waiting int
	sources map[string]*source
	ring    []*source // those with waiters, in the order of their turns
}

// A source is an IP address from which passwords wait.
type source struct {
	name    string
	waiting int
	lines   map[string]*line
	ring    []*line // likewise
}

// A line has the passwords of one user from one address, in the order in which they came.
type line struct {
	user    string
	waiters []*waiter
}

type waiter struct {
	src  *source
	line *line
	turn chan error // capacity 1; nil = it is its turn
}

func newQueue(cfg QueueConfig) *queue {
	return &queue{cfg: cfg.withDefaults(), free: max(1, runtime.GOMAXPROCS(0)/2), sources: make(map[string]*source)}
}

// acquire waits for a processor; release gives it back.
func (q *queue) acquire(ctx context.Context, user string) error {
	w, err := q.enter(sourceOf(ctx), user)
	if w == nil {
		return err
	}
	timer := time.NewTimer(q.cfg.WaitMax)
	defer timer.Stop()
	select {
	case err := <-w.turn:
		return err
	case <-timer.C:
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case err := <-w.turn: // just now
		if err == nil {
			q.releaseLocked()
		}
	default:
		q.removeLocked(w)
	}
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return err
	}
	return errBusy
}

// enter takes a processor, or a place; nil and an error if there is none.
func (q *queue) enter(from, user string) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free > 0 {
		q.free--
		return nil, nil //nolint:nilnil // who waits for nothing is no waiter
	}
	if !q.makeRoomLocked(from, user) {
		return nil, errBusy
	}
	src := q.sources[from]
	if src == nil {
		src = &source{name: from, lines: make(map[string]*line)}
		q.sources[from] = src
		q.ring = append(q.ring, src)
	}
	l := src.lines[user]
	if l == nil {
		l = &line{user: user}
		src.lines[user] = l
		src.ring = append(src.ring, l)
	}
	w := &waiter{src: src, line: l, turn: make(chan error, 1)}
	l.waiters = append(l.waiters, w)
	src.waiting++
	q.waiting++
	return w, nil
}

// makeRoomLocked sends one away who has more than who comes would have then, if places have
// run out; it reports whether there is one.
func (q *queue) makeRoomLocked(from, user string) bool {
	own := q.sources[from]
	if own != nil && own.waiting >= q.cfg.PerIPMax {
		l := own.longest()
		if len(l.waiters) < ownLine(own, user)+2 {
			return false
		}
		q.sendAwayLocked(l)
	}
	if q.waiting < q.cfg.WaitingMax {
		return true
	}
	var most *source
	for _, s := range q.sources {
		if most == nil || s.waiting > most.waiting {
			most = s
		}
	}
	switch {
	case own == nil && most.waiting > 1, own != nil && most.waiting > own.waiting+1:
		q.sendAwayLocked(most.longest())
	case own != nil && own == most && len(own.longest().waiters) > ownLine(own, user)+1:
		q.sendAwayLocked(own.longest())
	default:
		return false
	}
	return true
}

func ownLine(s *source, user string) int {
	if l := s.lines[user]; l != nil {
		return len(l.waiters)
	}
	return 0
}

func (s *source) longest() (most *line) {
	for _, l := range s.lines {
		if most == nil || len(l.waiters) > len(most.waiters) {
			most = l
		}
	}
	return most
}

func (q *queue) sendAwayLocked(l *line) {
	w := l.waiters[len(l.waiters)-1]
	q.removeLocked(w)
	w.turn <- errBusy
}

func (q *queue) removeLocked(w *waiter) {
	i := slices.Index(w.line.waiters, w)
	w.line.waiters = slices.Delete(w.line.waiters, i, i+1)
	w.src.waiting--
	q.waiting--
	if len(w.line.waiters) == 0 {
		delete(w.src.lines, w.line.user)
		w.src.ring = without(w.src.ring, w.line)
	}
	if w.src.waiting == 0 {
		delete(q.sources, w.src.name)
		q.ring = without(q.ring, w.src)
	}
}

// without takes one out of a ring, if it is in it.
func without[E comparable](ring []E, e E) []E {
	if i := slices.Index(ring, e); i >= 0 {
		return slices.Delete(ring, i, i+1)
	}
	return ring
}

func (q *queue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.releaseLocked()
}

// releaseLocked gives a processor to the next one.
func (q *queue) releaseLocked() {
	if len(q.ring) == 0 {
		q.free++
		return
	}
	src := q.ring[0]
	w := src.ring[0].waiters[0]
	q.ring = append(slices.Delete(q.ring, 0, 1), src)
	src.ring = append(slices.Delete(src.ring, 0, 1), w.line)
	q.removeLocked(w)
	w.turn <- nil
}
