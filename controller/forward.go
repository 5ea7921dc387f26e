package controller

import (
	"context"
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

// forwarding serves calls while this controller leads, and else passes them on to
// the leader as they are, whatever their protocol. While nobody leads it waits a
// moment: a take-over is short.
func (c *Controller) forwarding(h http.Handler) http.Handler {
	refusal := connect.NewErrorWriter()
	refuse := func(w http.ResponseWriter, r *http.Request, err error) {
		_ = refusal.Write(w, r, rpcerror.Error(err))
	}
	proxy := &httputil.ReverseProxy{
		Transport:     c.parts.Transport,
		FlushInterval: -1, // streams
		Rewrite: func(r *httputil.ProxyRequest) {
			target, _ := r.In.Context().Value(leaderKey{}).(*url.URL)
			r.SetURL(target)
			r.Out.Header.Set(headerForwarded, c.cfg.ID)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			c.log.Warn("a call could not be passed on to the leader", "path", r.URL.Path, "err", err)
			refuse(w, r, federation.Errorf(federation.NotLeader, "the leading controller does not answer; try again").WithCause(err))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, err := c.awaitLeader(r.Context(), r.Header.Get(headerForwarded) != "")
		switch {
		case err != nil:
			refuse(w, r, err)
		case target == nil:
			h.ServeHTTP(w, r)
		default:
			proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), leaderKey{}, target)))
		}
	})
}

type leaderKey struct{}

// awaitLeader returns where to pass a call on; nil if this controller leads. It
// waits while nobody is known to lead. A call that was passed on is not passed
// on again.
func (c *Controller) awaitLeader(ctx context.Context, forwarded bool) (*url.URL, error) {
	timeout := time.NewTimer(c.cfg.ForwardWait)
	defer timeout.Stop()
	for {
		r, changed := c.currentRole()
		if r.term != nil {
			return nil, nil //nolint:nilnil // this controller leads
		}
		if r.leader.URL != "" && r.leader.ID != c.cfg.ID && !forwarded && c.parts.Transport != nil {
			target, err := url.Parse(r.leader.URL)
			if err == nil {
				return target, nil
			}
		}
		select {
		case <-changed:
		case <-timeout.C:
			return nil, federation.Errorf(federation.NotLeader, "no controller leads at the moment; try again")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
