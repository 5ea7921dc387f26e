package security

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// A grant is a ticket with the key that belongs to it.
type grant struct {
	ticket messages.Ticket
	key    types.EncryptionKey
	until  time.Time
}

const (
	// kdcTimeout is how long a connection waits for a ticket. The question itself may take
	// longer, and has its use for connections to come: the library tries one KDC after the
	// other, for 5 s each.
	kdcTimeout = 5 * time.Second
	// ticketUse is the part of its life after which a ticket is replaced.
	ticketUse = 0.8
	// ticketLifeLeast is what a shorter life of a ticket is taken for.
	ticketLifeLeast = time.Second
	// kdcPause is how long a KDC that could not be reached is not asked again.
	kdcPause = time.Second
	// kdcPauseMax is what the pause grows to if it refuses: many realms lock whoever shows a
	// wrong key again and again. A file of the profile that changes ends it.
	kdcPauseMax = time.Minute
	// staleProofs of one ticket, with no success among them, make it be replaced: a broker
	// whose key was changed cannot read those of before. But not twice in stalePause.
	staleProofs = 3
	stalePause  = 5 * time.Second
)

var errSlowKDC = errors.New("the KDC gives no answer in time; see krb5-conf")

// A ticketSource has one login and one ticket for each broker, for all connections. It asks a
// KDC one question at a time. A ticket is used without waiting until it ends, also while it is
// replaced. Nothing runs while nobody asks. It is safe for concurrent use.
type ticketSource struct {
	login  func() (grant, error)
	ticket func(login grant, host string) (grant, error)

	mu     sync.Mutex // guards the following
	own    keptTicket
	hosts  map[string]*keptTicket
	away   error // of the last question that did not reach the KDC
	askAt  time.Time
	asking chan struct{} // closed at the end of the question that is under way; nil = none is
}

// A keptTicket is one that was given, or refused.
type keptTicket struct {
	grant
	got, fresh time.Time
	err        error // of the last question, if it was refused; until askAt, it is not put again
	askAt      time.Time
	pause      time.Duration
	shown      int // how often since a broker last took it
}

func newTicketSource(login func() (grant, error), ticket func(grant, string) (grant, error)) *ticketSource {
	return &ticketSource{login: login, ticket: ticket, hosts: make(map[string]*keptTicket)}
}

// holds reports whether a ticket can still be shown.
func (k *keptTicket) holds(now time.Time) bool { return now.Before(k.until) }

// stale reports whether a broker seems not to take the ticket.
func (k *keptTicket) stale(now time.Time) bool {
	return k.shown >= staleProofs && now.Sub(k.got) >= stalePause
}

// get returns a ticket for the broker at a host.
func (s *ticketSource) get(ctx context.Context, host string) (grant, error) {
	late := time.NewTimer(kdcTimeout)
	defer late.Stop()
	for {
		s.mu.Lock()
		now := time.Now()
		k := s.hostLocked(host, now)
		err := s.refusedLocked(k, now)
		if (!now.Before(k.fresh) || k.stale(now)) && err == nil && s.asking == nil {
			s.asking = make(chan struct{})
			go s.ask(host, k)
		}
		if k.holds(now) {
			k.shown++
			held := k.grant
			s.mu.Unlock()
			return held, nil
		}
		asking := s.asking
		s.mu.Unlock()
		if err != nil {
			return grant{}, err
		}
		select {
		case <-asking:
		case <-late.C:
			return grant{}, errSlowKDC
		case <-ctx.Done():
			return grant{}, ctx.Err()
		}
	}
}

// hostLocked is the ticket for a host. Those for hosts that are not asked for go when another
// one comes.
func (s *ticketSource) hostLocked(host string, now time.Time) *keptTicket {
	k := s.hosts[host]
	if k == nil {
		if s.asking == nil {
			maps.DeleteFunc(s.hosts, func(_ string, k *keptTicket) bool { return !k.holds(now) && !now.Before(k.askAt) })
		}
		k = &keptTicket{}
		s.hosts[host] = k
	}
	return k
}

// refusedLocked says why the KDC is not asked for a ticket now; nil if it may be.
func (s *ticketSource) refusedLocked(k *keptTicket, now time.Time) error {
	switch {
	case now.Before(s.askAt):
		return s.away
	case now.Before(s.own.askAt) && !s.own.holds(now):
		return s.own.err
	case now.Before(k.askAt):
		return k.err
	}
	return nil
}

// ask puts a question, after a login if that has to be replaced.
func (s *ticketSource) ask(host string, k *keptTicket) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.asking)
		s.asking = nil
	}()
	s.mu.Lock()
	now := time.Now()
	renew := !now.Before(s.own.fresh) && !now.Before(s.own.askAt)
	login := s.own.grant
	s.mu.Unlock()
	if renew {
		fresh, err := s.login()
		switch away := s.noteKept(&s.own, fresh, err); {
		case err == nil:
			login = fresh
		case away || !time.Now().Before(login.until):
			return
		}
	}
	ticket, err := s.ticket(login, host)
	if away := s.noteKept(k, ticket, err); err != nil && !away {
		s.doubtLogin()
	}
}

// noteKept notes the answer to a question, and reports whether the KDC was away.
func (s *ticketSource) noteKept(k *keptTicket, given grant, err error) (away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if err != nil {
		if e, ok := errors.AsType[*kdcError](err); ok && e.away {
			s.away, s.askAt = err, now.Add(kdcPause)
			return true
		}
		k.pause = min(max(2*k.pause, kdcPause), kdcPauseMax)
		k.err, k.askAt = err, now.Add(k.pause)
		return false
	}
	life := max(given.until.Sub(now), ticketLifeLeast)
	given.until = now.Add(life)
	*k = keptTicket{grant: given, got: now, fresh: now.Add(time.Duration(float64(life) * ticketUse))}
	return false
}

// doubtLogin has a login that is not new replaced with the next question: the KDC may have
// another key by now.
func (s *ticketSource) doubtLogin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.own.got) >= kdcPauseMax {
		s.own.fresh = time.Time{}
	}
}

// proven notes that the broker at a host has taken its ticket.
func (s *ticketSource) proven(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.hosts[host]; k != nil {
		k.shown = 0
	}
}
