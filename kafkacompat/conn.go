package kafkacompat

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/quota"
	"github.com/braidmq/braid/internal/security"
)

// A conn is one client connection. Two goroutines work for it:
//
//   - the reader takes requests off the socket and submits Produce requests to
//     the router at once, in order;
//   - the writer answers in request order, as Kafka does. Any other request is
//     worked on by the writer when its turn comes, so it sees the effects of all
//     requests before it, just as at a broker.
//
// So produces are pipelined, and a Fetch or JoinGroup that waits does not stop the
// reader before RequestsInFlightMax requests wait behind it.
type conn struct {
	s       *Server
	entered *quota.Room // who has counted it; nil until it is settled
	nc      net.Conn
	r       *bufio.Reader
	log     *slog.Logger
	host    string     // the client's IP address, as ACLs name it
	slots   chan *slot // read, not answered yet, in order

	// Of the last request, for the reader: the client id as it came, and as text.
	clientIDSent, clientID string

	inFlight      atomic.Int64 // requests
	answerable    atomic.Int64 // requests in line whose answers only wait for those before them
	away          router.AwayWait
	bytesInFlight atomic.Int64
	parked        atomic.Int64  // of them, those of requests other than Produce that wait in line
	answering     atomic.Int64  // since when such a request is at work, in Unix nanoseconds; 0 = none is
	bytesFreed    chan struct{} // a hint that bytesInFlight fell
	memberAt      atomic.Int64  // when a group member was last here, in Unix nanoseconds; 0 = it was sent elsewhere

	sessionOnce sync.Once
	sess        router.Session

	// Of the reader.
	limits *quota.Client // what the client of the last request may take; nil if there are no quotas
	user   string        // whose connection it is, for quotas
	known  bool          // user is set

	muted atomic.Pointer[mute] // nil = it never was

	principal security.Principal      // who the client is; set before its first request is read
	auth      *security.Authenticator // of the Server that it came to
	session   atomic.Pointer[session] // what the client has proven by SASL; nil if nothing
	sasl      saslState
	buffered  *bufio.Writer // of a TLS connection: one record for many small buffers; nil if there is no TLS

	fetches  *fetchSession // of the goroutine that answers; nil if the client has none
	sentAway sentAway      // likewise
	software string        // likewise: the client's name for itself (KIP-511); empty if it has none

	cancel    context.CancelFunc // ends all work for the connection
	stopWaits context.CancelFunc // ends long polls and waits for groups

	// deadlineMu guards the following.
	deadlineMu sync.Mutex
	stopped    bool      // no more requests are read
	readBy     time.Time // the deadline that is set

	writeBy time.Time // likewise, of the goroutine that answers
}

// A slot is a request in line for its answer.
type slot struct {
	req   request
	run   func(ctx, waitCtx context.Context) response // by the writer; or else:
	ready chan response                               // capacity 1
}

// A response is what goes back for one request.
type response struct {
	vecs    [][]byte // frame, length included; none for acks=0
	release func()   // after the bytes were written; may be nil
	close   bool     // close the connection after it
}

const readBufferBytes = 4 << 10

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		s:          s,
		nc:         nc,
		principal:  security.Anonymous,
		auth:       s.deps.Auth,
		r:          bufio.NewReaderSize(nc, readBufferBytes),
		host:       acl.Host(nc.RemoteAddr().String()),
		log:        s.clients.With("remote", nc.RemoteAddr().String()),
		slots:      make(chan *slot, s.cfg.RequestsInFlightMax),
		bytesFreed: make(chan struct{}, 1),
		cancel:     func() {},
		stopWaits:  func() {},
	}
	c.away = router.AwayWait{
		HoldsUp: func() bool { return c.answerable.Load() > 0 },
		Others:  s.cfg.AwayWait, Alone: s.cfg.AwayWaitAlone,
	}
	if _, ok := nc.(*tls.Conn); ok {
		c.buffered = bufio.NewWriterSize(nc, tlsBufferBytes)
	}
	return c
}

// tlsBufferBytes is the length of a TLS record.
const tlsBufferBytes = 16 << 10

// serve works until the client closes the connection, breaks the protocol, or
// the server drains.
func (c *conn) serve(ctx, waitCtx context.Context) {
	defer c.s.removeConn(ctx, c)
	if err := c.authenticate(ctx); err != nil {
		c.unknown(ctx, err)
		c.abort()
		return
	}
	if err := c.settle(ctx); err != nil {
		c.unknown(ctx, err)
		c.abort()
		return
	}
	if c.principal != security.Anonymous { // else who the listener says it is
		ctx, waitCtx = security.WithPrincipal(ctx, c.principal), security.WithPrincipal(waitCtx, c.principal)
	}
	c.user, c.known = security.PrincipalOf(ctx).Name, true
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write(ctx, waitCtx)
	}()
	err := c.read(ctx)
	close(c.slots)
	// Nobody is there to take the answers, or nobody who speaks the protocol: what waits
	// for records or for a group ends.
	c.stopWaits()
	switch {
	case c.s.isDraining(), ctx.Err() != nil, errors.Is(err, io.EOF):
	case errors.Is(err, errRefused):
		c.log.Warn("request refused, connection closed", "error", err)
		c.s.deps.Metrics.malformed(ctx)
	case errors.Is(err, errSessionEnded):
		c.log.Info("connection closed", "error", err)
	default:
		c.log.Debug("connection ends", "error", err)
	}
	<-written
	c.endFetchSession(ctx)
	c.sentAway.clear(c.s)
	c.abort()
	if c.sess != nil {
		c.sess.Close()
	}
}

// unknown tells why a connection ended before it was known who the client is.
func (c *conn) unknown(ctx context.Context, err error) {
	if errors.Is(err, errRefused) {
		c.log.Warn("request refused, connection closed", "error", err)
		c.s.deps.Metrics.malformed(ctx)
		return
	}
	if errors.Is(err, errHandshake) && !errors.Is(err, io.EOF) { // else somebody looked whether the port is open
		c.log.Info("TLS handshake failed", "error", err)
		return
	}
	c.log.Debug("connection ends before authentication", "error", err)
}

// route opens the router's session when it is first needed: an idle connection
// or an admin client has none.
func (c *conn) route() router.Session {
	c.sessionOnce.Do(func() { c.sess = c.s.deps.NewSession() })
	return c.sess
}

// abort closes the connection at once.
func (c *conn) abort() {
	c.cancel()
	_ = c.nc.Close()
}

// stopReading ends the reader; requests that were read are answered still, waits
// among them at once.
func (c *conn) stopReading() {
	c.deadlineMu.Lock()
	c.stopped = true
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	c.deadlineMu.Unlock()
	c.stopWaits()
}

// isStopped reports whether no more requests are read.
func (c *conn) isStopped() bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	return c.stopped
}

// memberSeen notes the outcome of a heartbeat or a SyncGroup. A member that was told
// to look its coordinator up again needs the connection no more if the server drains.
func (c *conn) memberSeen(err error) {
	switch federation.KindOf(err) {
	case federation.NotCoordinator:
		c.memberAt.Store(0)
		if c.s.isDraining() {
			c.stopReading()
		}
	case federation.UnknownMember:
		c.memberAt.Store(0)
	default: // also while the store is away, or the group rebalances
		c.memberAt.Store(time.Now().UnixNano())
	}
}

// hasMember reports whether a group member is about to heartbeat here.
func (c *conn) hasMember() bool {
	return time.Since(time.Unix(0, c.memberAt.Load())) < c.s.cfg.HandOverMax
}

func (c *conn) busy() bool { return c.inFlight.Load() > 0 }

// errRefused is what a client gets its connection closed for.
var errRefused = errors.New("refused")

func (c *conn) read(ctx context.Context) error {
	for {
		if err := c.awaitRoom(ctx); err != nil {
			return err
		}
		f, err := c.readFrame(ctx)
		if err != nil {
			return err
		}
		c.s.deps.Metrics.bytesIn(len(f.b) + 4)
		sl, err := c.dispatch(ctx, f)
		if err != nil {
			f.release()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, errSessionEnded) {
				return err
			}
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		c.inFlight.Add(1)
		if sl.run != nil {
			c.answerable.Add(1)
		}
		select {
		case c.slots <- sl:
		case <-ctx.Done():
			c.drop(sl)
			return ctx.Err()
		}
	}
}

// awaitRoom waits until the connection may have another request in memory.
func (c *conn) awaitRoom(ctx context.Context) error {
	for c.bytesInFlight.Load() >= c.s.cfg.ConnectionBytesInFlightMax || c.parked.Load() >= smallRequestBytes {
		select {
		case <-c.bytesFreed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// dispatch guards the reader against a bug in a decoder.
func (c *conn) dispatch(ctx context.Context, f *frame) (sl *slot, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("panic in a request decoder", "panic", p, "stack", string(debug.Stack()))
			sl, err = nil, errors.New("internal error")
		}
	}()
	return c.decode(ctx, f)
}

// writeGatherBytes bounds how much of several ready answers goes into one write.
const writeGatherBytes = 256 << 10

func (c *conn) write(ctx, waitCtx context.Context) {
	var out outgoing
	for sl := range c.slots {
		for sl != nil {
			resp, ok := c.answer(ctx, waitCtx, sl, &out)
			var next *slot
			if ok && !resp.close {
				next = c.nextReady(&out)
			}
			if ok && next == nil {
				ok = c.flush(&out)
			}
			if !ok || resp.close {
				out.drop(c)
				c.abort()
				for sl := range c.slots {
					c.drop(sl)
				}
				return
			}
			sl = next
		}
	}
}

// nextReady returns the next request if it is there and its answer may be sent
// together with those gathered.
func (c *conn) nextReady(out *outgoing) *slot {
	if out.bytes >= writeGatherBytes {
		return nil
	}
	select {
	case sl := <-c.slots:
		return sl // nil if the channel is closed
	default:
		return nil
	}
}

// answer gets the answer to a request and adds it to out. Unless it is there
// already, what was gathered is sent first. It returns false if the connection
// is broken.
func (c *conn) answer(ctx, waitCtx context.Context, sl *slot, out *outgoing) (response, bool) {
	var resp response
	select {
	case resp = <-sl.ready:
	default:
		if !c.flush(out) {
			c.drop(sl)
			return response{}, false
		}
		if sl.run != nil {
			c.answerable.Add(-1)
			var ok bool
			if resp, ok = c.runKnown(ctx, waitCtx, sl); !ok {
				return response{}, false
			}
			break
		}
		select {
		case resp = <-sl.ready:
		case <-ctx.Done():
			c.drop(sl)
			return response{}, false
		}
	}
	if sl.run == nil {
		c.answerable.Add(-1)
	}
	sl.req.observe(ctx, c.s.deps.Metrics)
	out.add(resp)
	return resp, true
}

// runKnown runs a request if the client is known still: it may have waited in line for
// long, and so may what it asks for. Else the connection ends.
func (c *conn) runKnown(ctx, waitCtx context.Context, sl *slot) (response, bool) {
	if err := c.stillKnown(sl.req.key); err != nil {
		c.log.Info("connection closed", "reason", err)
		c.drop(sl)
		return response{}, false
	}
	resp := c.run(ctx, waitCtx, sl)
	if err := c.stillKnown(sl.req.key); err != nil {
		c.log.Info("connection closed", "reason", err)
		if resp.release != nil {
			resp.release()
		}
		c.drop(sl)
		return response{}, false
	}
	return resp, true
}

// run guards the writer against a bug in a handler.
func (c *conn) run(ctx, waitCtx context.Context, sl *slot) (resp response) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("panic in a request handler", "api_key", sl.req.key, "panic", p, "stack", string(debug.Stack()))
			sl.req.share.giveBack(0)
			resp = response{close: true}
		}
	}()
	defer sl.req.frame.release()
	sl.req.frame.unpark()
	c.answering.Store(time.Now().UnixNano())
	defer c.answering.Store(0)
	return sl.run(ctx, waitCtx)
}

// drop forgets a request that will not be answered.
func (c *conn) drop(sl *slot) {
	c.inFlight.Add(-1)
	if sl.run != nil {
		sl.req.frame.release() // a Produce request's buffer is the router's until it is decided
	}
}

// outgoing gathers answers for one write.
type outgoing struct {
	vecs     [][]byte
	releases []func()
	requests int64
	bytes    int
}

func (o *outgoing) add(r response) {
	for _, v := range r.vecs {
		o.bytes += len(v)
	}
	o.vecs = append(o.vecs, r.vecs...)
	if r.release != nil {
		o.releases = append(o.releases, r.release)
	}
	o.requests++
}

// drop gives all buffers back.
func (o *outgoing) drop(c *conn) {
	for _, release := range o.releases {
		release()
	}
	c.inFlight.Add(-o.requests)
	clear(o.vecs)
	clear(o.releases)
	*o = outgoing{vecs: o.vecs[:0], releases: o.releases[:0]}
}

// flush writes what was gathered; each MiB must be taken within StallTimeout.
func (c *conn) flush(out *outgoing) bool {
	if out.requests == 0 {
		return true
	}
	defer out.drop(c)
	c.s.deps.Metrics.bytesOut(out.bytes)
	for rest := out.vecs; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && (n == 0 || size+len(rest[n]) <= frameUnitBytes) {
			size += len(rest[n])
			n++
		}
		if by, ok := newDeadline(c.writeBy, c.s.cfg.StallTimeout); ok {
			c.writeBy = by
			_ = c.nc.SetWriteDeadline(by)
		}
		if err := c.writeAll(rest[:n]); err != nil {
			c.log.Debug("write failed", "error", err)
			return false
		}
		rest = rest[n:]
	}
	return true
}

// writeAll writes buffers with one call where it can.
func (c *conn) writeAll(vecs [][]byte) error {
	if c.buffered == nil {
		bufs := net.Buffers(vecs)
		_, err := bufs.WriteTo(c.nc)
		return err
	}
	for _, v := range vecs {
		if _, err := c.buffered.Write(v); err != nil {
			return err
		}
	}
	return c.buffered.Flush()
}

// client says who asks: the client id's hints, and the gateway's own role if it
// names none.
func (c *conn) client(clientID string) federation.Client {
	cl := federation.ParseClient(clientID, "") // no rack: it comes with Fetch only, too late for Metadata
	cl.Kafka = true
	if cl.Role == federation.RoleBoth {
		cl.Role = c.s.cfg.Role
	}
	return cl
}
