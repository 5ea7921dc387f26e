package process

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/logging"
)

// readyTimeout bounds all checks of one /readyz request.
const readyTimeout = 2 * time.Second

// A Check is a condition for being ready.
type Check struct {
	Name string
	// Err returns why the condition does not hold; nil if it does.
	Err func(ctx context.Context) error
	// Told is set for what /readyz tells, but what does not make the process unready.
	Told bool
}

// OpsTask serves /metrics, /healthz, /readyz and /debug/pprof on a listener.
// checks is called for each /readyz.
func OpsTask(listener net.Listener, t *Telemetry, checks func() []Check, log *slog.Logger) lifecycle.Task {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { serveReady(w, r, checks()) })
	// Not the command line: it can hold the password of Redis.
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return httpTask("ops", listener, &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: logging.HTTPErrors(log, nil)})
}

// serveReady answers 200 if all checks hold and 503 otherwise, with one line for each.
func serveReady(w http.ResponseWriter, r *http.Request, checks []Check) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	status := http.StatusOK
	var text strings.Builder
	for _, c := range checks {
		if err := c.Err(ctx); err != nil {
			if !c.Told {
				status = http.StatusServiceUnavailable
			}
			fmt.Fprintf(&text, "%s: %v\n", c.Name, err)
			continue
		}
		text.WriteString(c.Name + ": ok\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text.String())
}
