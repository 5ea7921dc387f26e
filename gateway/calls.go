package gateway

import (
	"net/http"
	"strings"
	"sync/atomic"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/rpcerror"
)

// adminReserve is the part of CallsMax that calls which carry no records have on top of it:
// operators must reach a gateway that is full.
const adminReserve = 8

const callsMaxDefault = 20_000

// calls bounds what is being served at a time, of all connections together. It stands before
// everything else, so that who is refused costs next to nothing: a client opens and resets
// streams as fast as it writes, and each that is begun takes a goroutine and some 20 KiB.
type calls struct {
	open, refused atomic.Int64
	max           int64
	refusal       *connect.ErrorWriter
}

func newCalls(most int) *calls {
	return &calls{max: int64(most), refusal: connect.NewErrorWriter()}
}

// LimitCalls refuses calls of a handler that are too many, as a Gateway does; 0 = 20,000.
func LimitCalls(next http.Handler, most int) http.Handler {
	if most == 0 {
		most = callsMaxDefault
	}
	return newCalls(most).wrap(next)
}

// wrap refuses what is too much for a handler.
func (c *calls) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !counted(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		most := c.max
		if !strings.HasPrefix(r.URL.Path, dataPaths) {
			most += max(1, c.max/adminReserve)
		}
		defer c.open.Add(-1)
		if c.open.Add(1) > most {
			c.refused.Add(1)
			_ = c.refusal.Write(w, r, rpcerror.Error(federation.Errorf(federation.Throttled,
				"this gateway has %d calls and streams open, as many as --calls-max lets it; try again, or use another one", most))) // who is refused may be gone
			return
		}
		next.ServeHTTP(w, r)
	})
}

// dataPaths are those of calls that produce and consume.
const dataPaths = "/braid.v1."

// counted reports whether calls of a path count: the fleet's own do not, and the question
// whether the gateway is well is answered at once.
func counted(path string) bool {
	return !strings.HasPrefix(path, fleetPaths) && path != "/"+grpchealth.HealthV1ServiceName+"/Check"
}

// Calls returns how many calls and streams are open, how many there may be, and how many
// were refused because of that.
func (g *Gateway) Calls() (open, most, refused int64) {
	return g.calls.open.Load(), g.calls.max, g.calls.refused.Load()
}
