package security

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A register is a KDC without a network, which counts what it is asked: logins as "", and
// tickets by host.
type register struct {
	life, take   time.Duration
	err, hostErr error

	mu    sync.Mutex // guards the following
	count map[string]int
}

func (r *register) answer(host string, err error) (grant, error) {
	r.mu.Lock()
	r.count[host]++
	g := grant{until: time.Now().Add(r.life)}
	g.ticket.TktVNO = r.count[host]
	r.mu.Unlock()
	<-time.After(r.take)
	return g, err
}

func (r *register) source() *ticketSource {
	r.count = make(map[string]int)
	return newTicketSource(func() (grant, error) { return r.answer("", r.err) }, func(_ grant, host string) (grant, error) { return r.answer(host, r.hostErr) })
}

// asked is how often it was asked for a host; without one, for anything.
func (r *register) asked(hosts ...string) (n int) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for host, of := range r.count {
		if len(hosts) == 0 || slices.Contains(hosts, host) {
			n += of
		}
	}
	return n
}

func TestOneLoginForAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &register{life: 100 * time.Second, take: time.Second}
		s := r.source()
		number := func(host string) int {
			g, err := s.get(t.Context(), host)
			require.NoError(t, err)
			return g.ticket.TktVNO
		}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { require.Equal(t, 1, number(fmt.Sprint("b", i%3))) })
		}
		all.Wait()
		require.Equal(t, 1, r.asked(""))
		require.Equal(t, 4, r.asked("b0", "b1", "b2", ""))

		// What is to be replaced is used while that is done.
		<-time.After(80 * time.Second)
		began := time.Now()
		for range 10 {
			require.Equal(t, 1, number("b0"))
		}
		require.Zero(t, time.Since(began))
		synctest.Wait()
		<-time.After(3 * time.Second)
		require.Equal(t, 2, number("b0"))
		require.Equal(t, 2, r.asked(""))

		// Nothing runs while nobody asks.
		<-time.After(time.Hour)
		require.Equal(t, 2, r.asked(""))
		require.Equal(t, 3, number("b0"))
		require.Equal(t, 3, r.asked(""))
		require.Len(t, s.hosts, 3)
		require.Equal(t, 1, number("b9"))
		require.Len(t, s.hosts, 2, "those that have ended go")
	})
}

// A KDC that is away is asked once a second, whoever wants a ticket, and those that hold are used.
func TestKDCsThatAreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &register{life: 100 * time.Second}
		s := r.source()
		_, err := s.get(t.Context(), "b0")
		require.NoError(t, err)
		<-time.After(80 * time.Second)
		away := &kdcError{"away", true}
		r.err, r.hostErr = away, away
		before := r.asked()
		for range 190 {
			_, err := s.get(t.Context(), "b0")
			require.NoError(t, err)
			_, err = s.get(t.Context(), "b1")
			require.Equal(t, away, err)
			<-time.After(100 * time.Millisecond)
		}
		require.LessOrEqual(t, r.asked()-before, 20)
		<-time.After(time.Second)
		_, err = s.get(t.Context(), "b0")
		require.Equal(t, away, err, "it has ended")
		r.err, r.hostErr = nil, nil
		_, err = s.get(t.Context(), "b0")
		require.Equal(t, away, err, "as it was told just now")
		<-time.After(kdcPause)
		_, err = s.get(t.Context(), "b0")
		require.NoError(t, err)
	})
}

// One that hangs is asked once, and whoever waits does so for some seconds.
func TestKDCsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &register{life: 100 * time.Second, take: time.Minute, err: &kdcError{"away", true}}
		s := r.source()
		began := time.Now()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				_, err := s.get(t.Context(), fmt.Sprint("b", i))
				require.Equal(t, errSlowKDC, err)
			})
		}
		all.Wait()
		require.Equal(t, kdcTimeout, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.get(ctx, "b0")
		require.Equal(t, context.DeadlineExceeded, err)
		require.Equal(t, 1, r.asked())
		<-time.After(time.Hour)
	})
}

// Refusals are not asked for again and again: realms lock who does.
func TestKDCsThatRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		r := &register{life: time.Hour, err: refused}
		s := r.source()
		ask := func(host string) error {
			_, err := s.get(t.Context(), host)
			return err
		}
		for range 6000 {
			require.Equal(t, refused, ask("b0"))
			require.Equal(t, refused, ask("b1"))
			<-time.After(100 * time.Millisecond)
		}
		require.Equal(t, 6+9, r.asked(), "after 1, 2, 4, ... 60 s in ten minutes")
		<-time.After(kdcPauseMax)
		r.err, r.hostErr = nil, refused
		require.Equal(t, refused, ask("b0"))
		require.Equal(t, refused, ask("b1"))
		require.Equal(t, 1, r.asked("b0"))
		require.Equal(t, 1, r.asked("b1"))
		logins := r.asked("")
		<-time.After(kdcPauseMax)
		require.Equal(t, refused, ask("b0"))
		require.Equal(t, refused, ask("b1"))
		require.Equal(t, logins+1, r.asked(""), "the KDC may not know its own ticket any more")
		r.hostErr = nil
		<-time.After(kdcPauseMax)
		require.NoError(t, ask("b0"))
	})
}

// A login that is refused does not end the one that holds.
func TestLoginsThatHoldAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &register{life: 100 * time.Second}
		s := r.source()
		_, err := s.get(t.Context(), "b0")
		require.NoError(t, err)
		<-time.After(90 * time.Second)
		r.err = errors.New("refused")
		for i := range 5 {
			_, err := s.get(t.Context(), fmt.Sprint("c", i))
			require.NoError(t, err)
		}
		require.Equal(t, 2, r.asked(""))
	})
}

// Tickets that a broker does not take are replaced, but not all the time.
func TestTicketsThatBrokersDoNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &register{life: time.Hour}
		s := r.source()
		show := func(during time.Duration, taken bool) {
			for range during / (100 * time.Millisecond) {
				_, err := s.get(t.Context(), "b0")
				require.NoError(t, err)
				if taken {
					s.proven("b0")
				}
				<-time.After(100 * time.Millisecond)
			}
		}
		show(time.Minute, true)
		require.Equal(t, 1, r.asked("b0"))
		show(time.Minute, false)
		require.InDelta(t, time.Minute/stalePause, r.asked("b0")-1, 1)
		require.Equal(t, 1, r.asked(""))
		s.proven("nobody")
	})
}
