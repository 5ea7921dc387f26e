package kafkacompat

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/layout"
	"github.com/braidmq/braid/internal/quota"
)

// A request is one request of a client while it is worked on.
type request struct {
	api      *api
	key      int16
	version  int16
	corr     int32
	clientID string
	frame    *frame
	body     []byte // what follows the header; it points into frame
	start    time.Time
	may      acl.Access // not set yet for Produce and Fetch when the handler begins
	limits   *quota.Client
	work     time.Duration // that counts for quotas, so far
	// mutations are partitions that were created, and not counted yet.
	mutations int
	share     answerShare
	crowded   bool      // a Fetch must make room soon
	noRoom    error     // why there was no room for the answer, or for a part of it
	until     time.Time // the client has to wait so long before its next request; zero = not at all

	last     bool  // the connection is closed after the answer
	code     int16 // the first error, for metrics
	internal error // an error that nobody classified, for the log
}

// requestHeadBytesMin are API key, version and correlation id.
const requestHeadBytesMin = 8

// decode reads the header of a request and puts it in line. An error closes the
// connection, as at a Kafka broker: an unknown API key or version has no answer
// that a client could read. Only ApiVersions has one (KIP-511).
func (c *conn) decode(ctx context.Context, f *frame) (*slot, error) {
	rd := reader{b: f.b}
	sl := &slot{req: request{key: rd.i16(), version: rd.i16(), corr: rd.i32(), frame: f, start: time.Now()}}
	req := &sl.req
	req.api = c.s.apis[req.key]
	if req.api == nil {
		return nil, fmt.Errorf("unknown API key %d", req.key)
	}
	if err := c.stillKnown(req.key); err != nil {
		return nil, err
	}
	if req.version < req.api.min || req.version > req.api.max {
		if req.key == int16(kmsg.ApiVersions) {
			sl.run = func(context.Context, context.Context) response { return c.apiVersionsUnknown(req) }
			return sl, nil
		}
		if req.key != int16(kmsg.Produce) || req.version < 0 || req.version > req.api.max {
			return nil, fmt.Errorf("%s version %d: this gateway serves %d to %d", req.api.name, req.version, req.api.min, req.api.max)
		}
	}
	clientID, _ := rd.str(false)
	if string(clientID) != c.clientIDSent { // most clients keep theirs
		c.clientIDSent, c.clientID = string(clientID), text(clientID)
		if len(c.clientID) > layout.StringBytesMax {
			return nil, fmt.Errorf("%s version %d: %w", req.api.name, req.version, layout.ErrStringMax)
		}
	}
	req.clientID = c.clientID
	if req.version >= req.api.flexible {
		rd.tags()
	}
	if rd.bad {
		return nil, fmt.Errorf("%s version %d: the header is cut off", req.api.name, req.version)
	}
	req.body = rd.b
	req.limits = c.limitsOf()
	switch req.key {
	case int16(kmsg.Produce):
		return sl, c.produce(ctx, sl)
	case int16(kmsg.Fetch):
		sl.run = func(_, waitCtx context.Context) response { return c.fetch(waitCtx, req) }
	default:
		sl.run = func(ctx, waitCtx context.Context) response { return c.handle(ctx, waitCtx, req) }
	}
	return sl, nil
}

// handle works on any request but Produce and Fetch. A handler returns nil if there is no
// room for its answer, or if no answer is right.
func (c *conn) handle(ctx, waitCtx context.Context, req *request) response {
	began := req.workBegins()
	kreq := kmsg.RequestForKey(req.key)
	kreq.SetVersion(req.version)
	walked, err := req.api.check(req.version, req.body)
	if err != nil {
		return c.malformed(ctx, req, err)
	}
	if req.api.waits {
		ctx = waitCtx
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.s.cfg.RequestTimeout)
		defer cancel()
	}
	defer func() { req.share.giveBack(0) }() // unless the response has it by then
	if err := req.roomAtFirst(ctx, c, walked.elements); err != nil {
		return c.refuseAnswer(ctx, req)
	}
	if err := walked.decode(kreq, req.body); err != nil {
		return c.malformed(ctx, req, err)
	}
	req.worked(began)
	if !c.authorize(ctx, req) {
		return response{close: true}
	}
	kresp := req.handleCounted(ctx, c, kreq)
	if kresp == nil && req.noRoom != nil {
		return c.refuseAnswer(ctx, req)
	}
	if req.internal != nil {
		c.log.Error("request failed", "api", req.api.name, "error", req.internal)
	}
	if kresp == nil { // no answer is right
		return response{close: true}
	}
	c.throttle(ctx, req, kresp)
	out := encode(req, kresp)
	if len(out.vecs[0])-frameLengthBytes > math.MaxInt32 {
		req.noRoom = errFrame
		return c.refuseAnswer(ctx, req)
	}
	req.written(c, &out)
	out.close = req.last
	return out
}

// workBegins and worked count the time between them as work, if somebody asks for it.
func (r *request) workBegins() (now time.Time) {
	if r.limits != nil {
		now = time.Now()
	}
	return now
}

func (r *request) worked(began time.Time) {
	if !began.IsZero() {
		r.work += time.Since(began)
	}
}

// handleCounted calls the handler, and counts the time for it if it waits for nobody.
func (r *request) handleCounted(ctx context.Context, c *conn, kreq kmsg.Request) kmsg.Response {
	if r.limits == nil || !r.api.local {
		return r.api.handle(ctx, c, r, kreq)
	}
	defer r.worked(r.workBegins())
	return r.api.handle(ctx, c, r, kreq)
}

func (c *conn) malformed(ctx context.Context, req *request, err error) response {
	c.log.Warn("malformed request, connection closed", "api", req.api.name, "version", req.version, "error", err)
	c.s.deps.Metrics.malformed(ctx)
	return response{close: true}
}

// encode makes the frame of a response.
func encode(req *request, kresp kmsg.Response) response {
	b := make([]byte, 0, max(256, req.share.encoded))
	b = appendResponseHead(b, req, kresp.IsFlexible())
	b = kresp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return response{vecs: [][]byte{b}}
}

// appendResponseHead leaves room for the length. The header of ApiVersions is
// never flexible: the client cannot know yet what the broker speaks (KIP-511).
func appendResponseHead(b []byte, req *request, flexible bool) []byte {
	b = append(b, 0, 0, 0, 0)
	b = appendI32(b, req.corr)
	if flexible && req.key != int16(kmsg.ApiVersions) {
		b = append(b, 0)
	}
	return b
}

func (r *request) observe(ctx context.Context, m *Metrics) {
	m.request(ctx, r.api.name, r.version, r.code, time.Since(r.start))
}

// letGo gives back the room of a request that has been decoded, before it waits for records
// or for a group: what it keeps of it is small.
func (r *request) letGo() {
	r.frame.release()
	r.body = nil
}
