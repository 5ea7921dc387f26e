package gateway

import (
	"net/http"
	"sync"
	"time"

	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

// A stallWatch is the ResponseWriter of a Read call. HTTP has the stream wait for as long
// as its client takes nothing, while it holds what it has read: the watch ends it after a
// time. One goroutine writes, as with any ResponseWriter.
type stallWatch struct {
	http.ResponseWriter
	timeout time.Duration
	stalled func()

	mu    sync.Mutex // guards the following
	since time.Time  // when the write that is under way began; zero if none is
	timer *time.Timer
	ended bool
}

// stallPieceBytes is what a client must take within the timeout: a slow one is not cut off.
const stallPieceBytes = 256 << 10

// cutStalled puts a stallWatch before Read.
func (g *Gateway) cutStalled(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != braidv1connect.ConsumerServiceReadProcedure {
			next.ServeHTTP(w, r)
			return
		}
		s := &stallWatch{ResponseWriter: w, timeout: g.cfg.StallTimeout, stalled: func() {
			g.log.Info("a reader takes nothing of what is sent to it; its stream ends", "remote", r.RemoteAddr, "for", g.cfg.StallTimeout)
		}}
		s.mu.Lock()
		s.timer = time.AfterFunc(s.timeout, s.look)
		s.mu.Unlock()
		defer s.end()
		next.ServeHTTP(s, r)
	})
}

// look ends the stream if a write takes too long, else it looks again when one may.
func (s *stallWatch) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	left := s.timeout
	if !s.since.IsZero() {
		left -= time.Since(s.since)
	}
	if left > 0 {
		s.timer.Reset(left)
		return
	}
	s.ended = true
	s.stalled()
	// HTTP/2 resets the stream, HTTP/1.1 closes the connection; the write fails.
	_ = http.NewResponseController(s.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
}

// end is called when the handler returns: the ResponseWriter must not be touched any more.
func (s *stallWatch) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.timer.Stop()
}

func (s *stallWatch) writing(at time.Time) {
	s.mu.Lock()
	s.since = at
	s.mu.Unlock()
}

// Write implements http.ResponseWriter.
func (s *stallWatch) Write(p []byte) (n int, err error) {
	defer s.writing(time.Time{})
	for {
		s.writing(time.Now())
		piece := p[n:min(len(p), n+stallPieceBytes)]
		m, err := s.ResponseWriter.Write(piece)
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// Flush implements http.Flusher.
func (s *stallWatch) Flush() { _ = s.FlushError() }

// FlushError is for http.ResponseController.
func (s *stallWatch) FlushError() error {
	s.writing(time.Now())
	defer s.writing(time.Time{})
	return http.NewResponseController(s.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (s *stallWatch) Unwrap() http.ResponseWriter { return s.ResponseWriter }
