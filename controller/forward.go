package controller

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/rpcerror"
)

// headerForwarded marks a call that a standby passed on, so that two controllers
// that disagree about the leader do not pass it back and forth.
const headerForwarded = "Braid-Forwarded-By"

// HeaderForwardedFor says where a call came from that a standby passed on.
const HeaderForwardedFor = "Braid-Forwarded-For"

// forwardBytesMax bounds the request of an admin call.
const forwardBytesMax = 4 << 20

// A forwarder serves calls while its controller leads, and else passes them on to
// the leader as they are, whatever their protocol. While nobody leads, or the
// leader cannot be reached, it waits a moment: a take-over is short. It holds the
// whole request, which all admin calls send before they are answered.
type forwarder struct {
	*Controller
	serve   http.Handler
	proxy   *httputil.ReverseProxy
	refusal *connect.ErrorWriter
}

// An attempt is a call that this controller serves as the leader. Its answer is dropped,
// and the call made again, if it turns out that another controller leads by now: then
// nothing of it was done, or the request id tells.
type attempt struct {
	http.ResponseWriter
	header http.Header // of the answer; the writer's own once it has begun
	begun  bool
	vain   bool  // another controller leads
	over   *term // the term that was over; nil if there was none any more
	// refused is told if nobody makes the call again; nil = nobody wants to know.
	refused func(error)
}

type attemptKey struct{}

// Header implements http.ResponseWriter.
func (a *attempt) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *attempt) WriteHeader(status int) {
	if !a.vain {
		a.begin()
		a.ResponseWriter.WriteHeader(status)
	}
}

// Write implements io.Writer.
func (a *attempt) Write(b []byte) (int, error) {
	if a.vain {
		return len(b), nil
	}
	a.begin()
	return a.ResponseWriter.Write(b)
}

// Flush implements http.Flusher, which Connect asks streams for.
func (a *attempt) Flush() {
	if !a.vain {
		a.begin()
		_ = http.NewResponseController(a.ResponseWriter).Flush() // fails only if the caller is gone
	}
}

// Unwrap lets http.ResponseController find the writer.
func (a *attempt) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *attempt) begin() {
	if a.begun {
		return
	}
	to := a.ResponseWriter.Header()
	maps.Copy(to, a.header)
	a.header, a.begun = to, true // trailers are set later
}

// again is the interceptor that finds the attempts that are in vain.
func (c *Controller) again(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		r, _ := c.currentRole()
		res, err := next(ctx, req)
		a, ok := ctx.Value(attemptKey{}).(*attempt)
		if !ok || err == nil || federation.KindOf(rpcerror.FromError(err)) != federation.NotLeader {
			return res, err
		}
		if r.term == nil { // it ended before the call came here
			a.vain = true
			return res, err
		}
		select {
		case <-r.term.ended:
			a.vain, a.over = true, r.term
		default:
		}
		return res, err
	}
}

// InVain reports whether a call, whose handler has returned, is made again where the lead
// is by now, which records it then. If it comes to nobody who leads, refused is called
// with the answer to it in place of that.
func InVain(ctx context.Context, refused func(error)) bool {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok || !a.vain {
		return false
	}
	a.refused = refused
	return true
}

// A hop is one attempt to pass a call on.
type hop struct {
	target *url.URL
	err    error // no connection: nothing was sent, and nothing was answered
}

type hopKey struct{}

func (c *Controller) forwarding(h http.Handler) http.Handler {
	f := &forwarder{Controller: c, serve: h, refusal: connect.NewErrorWriter()}
	f.proxy = &httputil.ReverseProxy{
		Transport:     c.parts.Transport,
		FlushInterval: -1, // streams
		Rewrite: func(r *httputil.ProxyRequest) {
			if p, ok := r.In.Context().Value(hopKey{}).(*hop); ok {
				r.SetURL(p.target)
			}
			r.Out.Header.Set(headerForwarded, c.cfg.ID)
			r.Out.Header.Set(HeaderForwardedFor, r.In.RemoteAddr)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			var op *net.OpError
			if p, ok := r.Context().Value(hopKey{}).(*hop); ok && errors.As(err, &op) && op.Op == "dial" {
				p.err = err
				return
			}
			c.log.Warn("a call could not be passed on to the leader", "path", r.URL.Path, "err", err)
			f.refuse(w, r, federation.Errorf(federation.NotLeader, "the leading controller broke off; look whether the call was done, and try again").WithCause(err))
		},
	}
	return f
}

func (f *forwarder) refuse(w http.ResponseWriter, r *http.Request, err error) {
	_ = f.refusal.Write(w, r, rpcerror.Error(err)) // fails only if the caller is gone
}

// ServeHTTP implements http.Handler.
func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, forwardBytesMax))
	if err != nil {
		f.refuse(w, r, federation.Errorf(federation.InvalidArgument, "the request could not be read, or is above %d bytes", forwardBytesMax))
		return
	}
	until := time.Now().Add(f.cfg.ForwardWait)
	refused := func(error) {} // of the last attempt that was in vain
	for {
		ctx, cancel := context.WithDeadline(r.Context(), until)
		answered, vain, err := f.try(ctx, w, r, body)
		cancel()
		if vain != nil {
			until = time.Now().Add(f.cfg.ForwardWait) // that call may have taken long
			if vain.refused != nil {
				refused = vain.refused
			}
		}
		if err != nil {
			refused(err)
			f.refuse(w, r, err)
			return
		}
		if answered {
			return
		}
	}
}

// try serves a call, or passes it on, once there is a leader. It reports whether the
// call is answered, and else whether it was served in vain; an error says that nobody
// will answer it. Only the wait ends with ctx.
func (f *forwarder) try(ctx context.Context, w http.ResponseWriter, r *http.Request, body []byte) (answered bool, vain *attempt, err error) {
	target, err := f.awaitLeader(ctx, r.Header.Get(headerForwarded) != "")
	if err != nil {
		return false, nil, err
	}
	again := r.WithContext(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	if target == nil {
		a := &attempt{ResponseWriter: w, header: http.Header{}}
		f.serve.ServeHTTP(a, again.WithContext(context.WithValue(r.Context(), attemptKey{}, a)))
		if !a.vain {
			a.begin()
			return true, nil, nil
		}
		if a.over != nil && !f.overSoon(r.Context(), a.over) {
			return false, a, errNotLeader()
		}
		return false, a, nil
	}
	p := &hop{target: target}
	f.proxy.ServeHTTP(w, again.WithContext(context.WithValue(r.Context(), hopKey{}, p)))
	if p.err == nil {
		return true, nil, nil
	}
	f.log.Info("the leader cannot be reached; waiting for the next one", "leader", target, "err", p.err)
	sleep(ctx, f.cfg.RenewInterval)
	return false, nil, nil
}

// overSoon waits until a term that is about to be over is; false if that takes too long.
func (f *forwarder) overSoon(ctx context.Context, t *term) bool {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.ForwardWait)
	defer cancel()
	select {
	case <-t.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// awaitLeader returns where to pass a call on; nil if this controller leads. It
// waits while nobody is known to lead. A call that was passed on is not passed
// on again.
func (c *Controller) awaitLeader(ctx context.Context, forwarded bool) (*url.URL, error) {
	for {
		r, changed := c.currentRole()
		if r.term != nil {
			return nil, nil // this controller leads
		}
		if r.leader.URL != "" && r.leader.ID != c.cfg.ID && !forwarded && c.parts.Transport != nil && ctx.Err() == nil {
			target, err := url.Parse(r.leader.URL)
			if err == nil {
				return target, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			e := federation.Errorf(federation.NotLeader, "no controller leads at the moment, or the leader cannot be reached; try again")
			e.RetryAfter = time.Second
			return nil, e
		}
	}
}
