package upstream

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
)

// Use says what a connection is for. A broker handles the requests of one
// connection one after the other, so uses do not share connections.
type Use int8

// The uses of a connection.
const (
	UseAppend Use = iota + 1 // Produce
	UseRead                  // Fetch without waiting, of heads
	UseCold                  // Fetch without waiting, of sealed extents: may come from slow storage
	UseTail                  // Fetch that waits, in one incremental session
	UseQuery                 // ListOffsets, OffsetForLeaderEpoch, DeleteRecords
)

type connKey struct {
	broker int32
	use    Use
	lane   int
}

// ErrConnClosed is the cause of requests that failed because their connection
// was closed, by the broker or because it was silent for too long. Whether the
// broker handled them is not known.
var ErrConnClosed = errors.New("connection to the broker was closed")

// A connSlot dials the connection of a key once, for all who ask at that time.
type connSlot struct {
	mu      sync.Mutex // guards the following
	conn    *Conn
	dialing chan struct{} // closed when the dial under way ended
	err     error         // of the last dial
	ended   time.Time     // the last dial
	pause   time.Duration // for which err is believed
	gone    bool
}

const (
	// redialPause is how long a failed dial is believed, so that a dead broker is not dialled
	// for every append. It is also the least time between two dials when the first went well:
	// a session that is about to end, as its token is, would else be one dial after the other.
	redialPause = 100 * time.Millisecond
	// redialPauseMost is how long a broker's refusal is believed when others came before it:
	// each time it is twice as long. Most last until somebody writes another secret.
	redialPauseMost = time.Second
)

// Ready returns the open connection of a key without waiting; nil if there is none.
func (c *Cluster) Ready(broker int32, use Use, lane int) *Conn {
	s := c.slot(connKey{broker, use, lane})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && !s.conn.Closed() {
		return s.conn
	}
	return nil
}

// Conn returns the connection of a key; it dials if there is none. Errors are
// of kind ClusterUnavailable; nothing was sent then.
func (c *Cluster) Conn(ctx context.Context, broker int32, use Use, lane int) (*Conn, error) {
	s := c.slot(connKey{broker, use, lane})
	for {
		s.mu.Lock()
		switch {
		case s.gone || c.ctx.Err() != nil:
			s.mu.Unlock()
			return nil, c.unavailable(ErrConnClosed)
		case s.conn != nil && !s.conn.Closed():
			conn := s.conn
			s.mu.Unlock()
			return conn, nil
		case s.dialing == nil && s.err != nil && time.Since(s.ended) < s.pause:
			err := s.err
			s.mu.Unlock()
			return nil, err
		case s.dialing == nil:
			s.dialing = make(chan struct{})
			go c.dial(s, broker, time.Until(s.ended.Add(redialPause)))
		}
		wait := s.dialing
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Cluster) slot(k connKey) *connSlot {
	c.connMu.Lock()
	defer c.connMu.Unlock()
	s := c.conns[k]
	if s == nil {
		s = &connSlot{gone: c.ctx.Err() != nil}
		c.conns[k] = s
	}
	return s
}

// dial opens the connection of a slot after a while.
func (c *Cluster) dial(s *connSlot, broker int32, after time.Duration) {
	if after > 0 {
		timer := time.NewTimer(after)
		select {
		case <-timer.C:
		case <-c.ctx.Done():
		}
		timer.Stop()
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	conn, err := c.open(ctx, broker)
	pause := redialPause
	if err != nil {
		err = c.unavailable(err)
		if refused, ok := errors.AsType[*RefusedError](err); ok && refused.Certain {
			s.mu.Lock()
			pause = min(max(2*s.pause, redialPause), redialPauseMost)
			s.mu.Unlock()
		}
		c.cfg.Logger.Debug("broker cannot be reached", "cluster", c.Name, "broker", broker, "err", err)
		// The address may be an old one; a dead broker's partitions have new leaders.
		c.meta.mu.Lock()
		delete(c.meta.brokers, broker)
		c.meta.mu.Unlock()
	}
	s.mu.Lock()
	if s.gone && conn != nil {
		conn.Close()
		conn = nil
	}
	if err == nil {
		pause = 0
	}
	s.conn, s.err, s.ended, s.pause = conn, err, time.Now(), pause
	close(s.dialing)
	s.dialing = nil
	s.mu.Unlock()
}

func (s *connSlot) close() {
	s.mu.Lock()
	s.gone = true
	conn := s.conn
	s.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

func (c *Cluster) open(ctx context.Context, broker int32) (*Conn, error) {
	addr, err := c.meta.address(ctx, broker)
	if err != nil {
		return nil, err
	}
	c.contact.ask(time.Now())
	nc, err := c.dialBroker(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn := &Conn{
		nc: nc, contact: &c.contact, clientID: c.cfg.ClientID, timeout: c.cfg.RequestTimeout, bytesMax: c.cfg.ResponseBytesMax, buffers: c.buffers,
		// One more than slots: the call that proves who we are has none.
		out: make(chan *call, c.cfg.ConnRequestsMax+1), slots: make(chan struct{}, c.cfg.ConnRequestsMax),
		done: make(chan struct{}), written: make(chan struct{}), read: make(chan struct{}), more: make(chan struct{}, 1),
	}
	if _, secure := nc.(*secureConn); secure {
		conn.records = bufio.NewWriterSize(nc, recordBufferBytes)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = nc.SetDeadline(deadline)
	}
	if err := conn.handshake(); err != nil {
		_ = nc.Close()
		return nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	c.contact.answered()
	go conn.writeLoop()
	go conn.readLoop()
	if err := c.prove(ctx, conn, addr); err != nil {
		conn.Close()
		return nil, err
	}
	c.letIn()
	return conn, nil
}

// A Conn is a connection to a broker. Requests are pipelined: they are written
// in the order of Send and answered in that order.
type Conn struct {
	nc       net.Conn
	records  *bufio.Writer // with TLS, which has no vectored writes; nil without
	contact  *contact
	clientID string
	timeout  time.Duration
	bytesMax int
	buffers  *idleBuffers
	versions map[int16][2]int16 // by API key: lowest and highest version

	out   chan *call    // to the write loop
	slots chan struct{} // one for each request in flight; Send never blocks on out

	mu       sync.Mutex // guards the following
	inflight []*call    // written or about to be, oldest first
	err      error
	drained  bool        // err is set, and all that was in flight has been told
	watch    *time.Timer // ends in look; nil before the first request
	watching bool        // watch runs
	closed   atomic.Bool
	done     chan struct{} // closed by fail
	written  chan struct{} // closed when the write loop has ended
	read     chan struct{} // closed when the read loop has ended
	corr     int32
	session  session

	vector net.Buffers // of the write loop

	sent  atomic.Int32  // the last request whose bytes are all written
	early atomic.Bool   // the read loop waits for sent
	more  chan struct{} // holds one: sent has grown meanwhile
}

type call struct {
	corr     int32
	flexible bool // the response header has tags
	own      bool // of the connection itself: it has no slot
	bufs     net.Buffers
	size     int // of all of them
	sent     time.Time
	done     func(*Buffer, error)

	// What most requests need, so that a call is one object.
	head [32]byte
	few  [4][]byte
}

// Closed reports whether the connection is of no use any more.
func (c *Conn) Closed() bool { return c.closed.Load() }

// Version returns the highest version of an API that both the broker and a
// caller that knows up to most can speak; -1 if there is none.
func (c *Conn) Version(key, least, most int16) int16 {
	r, ok := c.versions[key]
	if !ok || r[1] < least || r[0] > most {
		return -1
	}
	return min(r[1], most)
}

// TryAcquire takes one of the connection's slots for a request in flight, which
// the answer to the request gives back; false if all are taken.
func (c *Conn) TryAcquire() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// Acquire is TryAcquire that waits.
func (c *Conn) Acquire(ctx context.Context) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-c.done:
		return ErrConnClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Send writes a request whose slot the caller has acquired. The body is written
// without being copied and must stay untouched until done, which is called
// exactly once, from the connection's goroutine: with the response's body in a
// buffer that done owns, or with an error. It is called in the order of Send, also
// for what fails with the connection or comes after that. done must not block.
//
// flex says whether this version of the API has the compact encoding (KIP-482).
func (c *Conn) Send(key, version int16, flex bool, body net.Buffers, done func(*Buffer, error)) {
	cl := c.newCall(key, version, flex, body, done)
	c.contact.ask(cl.sent)

	c.mu.Lock()
	if c.err != nil {
		err, later := c.err, !c.drained
		if later { // those before it are told first
			c.inflight = append(c.inflight, cl)
		}
		c.mu.Unlock()
		if !later {
			<-c.slots
			done(nil, err)
		}
		return
	}
	if c.session.holdLocked(c, cl) {
		c.mu.Unlock()
		return
	}
	c.enqueueLocked(cl)
	c.mu.Unlock()
}

// enqueueLocked gives a call to the write loop; the caller holds mu.
func (c *Conn) enqueueLocked(cl *call) {
	c.corr++
	cl.corr = c.corr
	binary.BigEndian.PutUint32(cl.bufs[0][corrAt:], uint32(cl.corr))
	c.inflight = append(c.inflight, cl)
	if !c.watching {
		c.watchLocked(time.Until(cl.sent.Add(c.timeout)))
	}
	c.out <- cl // has room: there are no more calls than slots
}

// watchLocked has the connection looked at after d; the caller holds mu. A deadline for
// each request would cost more than the rest of what a small one does.
func (c *Conn) watchLocked(d time.Duration) {
	c.watching = true
	if c.watch == nil {
		c.watch = time.AfterFunc(d, c.look)
		return
	}
	c.watch.Reset(d)
}

// look fails the connection if the oldest request has waited for too long.
func (c *Conn) look() {
	c.mu.Lock()
	c.watching = false
	if c.err != nil || len(c.inflight) == 0 {
		c.mu.Unlock()
		return
	}
	if left := time.Until(c.inflight[0].sent.Add(c.timeout)); left > 0 {
		c.watchLocked(left)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.fail(fmt.Errorf("%w: the broker did not answer for %s", ErrConnClosed, c.timeout))
}

// corrAt is where the correlation id stands in a request: behind size, key and version.
const corrAt = 8

// newCall makes a call; its header is the first of its buffers.
func (c *Conn) newCall(key, version int16, flex bool, body net.Buffers, done func(*Buffer, error)) *call {
	n := 8 + 2 + len(c.clientID)
	if flex {
		n++
	}
	total := n
	for _, b := range body {
		total += len(b)
	}
	cl := &call{flexible: flex, done: done, size: 4 + total, sent: time.Now()}
	head := cl.head[:0]
	if 4+n > len(cl.head) {
		head = make([]byte, 0, 4+n)
	}
	head = kbin.AppendInt32(head, int32(total))
	head = kbin.AppendInt16(head, key)
	head = kbin.AppendInt16(head, version)
	head = kbin.AppendInt32(head, 0) // the correlation id
	head = kbin.AppendInt16(head, int16(len(c.clientID)))
	head = append(head, c.clientID...)
	if flex {
		head = append(head, 0)
	}
	cl.bufs = cl.few[:0]
	if 1+len(body) > len(cl.few) {
		cl.bufs = make(net.Buffers, 0, 1+len(body))
	}
	cl.bufs = append(append(cl.bufs, head), body...)
	return cl
}

// Request sends a kmsg request in a version that both sides know and waits for
// its response.
func (c *Conn) Request(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	v := c.Version(req.Key(), 0, req.MaxVersion())
	if v < 0 {
		return nil, fmt.Errorf("the broker does not know API %d", req.Key())
	}
	req.SetVersion(v)
	if layouts[req.Key()] == nil {
		return nil, fmt.Errorf("the layout of answers to API %d is not known", req.Key())
	}
	if err := c.Acquire(ctx); err != nil {
		return nil, err
	}
	type answer struct {
		resp kmsg.Response
		err  error
	}
	ch := make(chan answer, 1)
	resp := req.ResponseKind() // now: a caller that has given up may send req elsewhere
	resp.SetVersion(v)
	c.Send(req.Key(), v, req.IsFlexible(), net.Buffers{req.AppendTo(nil)}, func(b *Buffer, err error) {
		if err != nil {
			ch <- answer{nil, err}
			return
		}
		// The response aliases the buffer, so the buffer is left to the collector.
		b.uncharge()
		err = Decode(resp, b.B)
		ch <- answer{resp, err}
	})
	select {
	case a := <-ch:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close closes the connection; all requests in flight fail.
func (c *Conn) Close() { c.fail(ErrConnClosed) }

func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.watch != nil {
		c.watch.Stop()
	}
	c.inflight = append(c.inflight, c.session.held...) // in the order of Send
	c.session.held = nil
	c.closed.Store(true)
	close(c.done)
	c.mu.Unlock()
	_ = c.nc.Close()
	go c.drain(err)
}

// drain tells all that is in flight that the connection failed, in the order of Send.
func (c *Conn) drain(err error) {
	<-c.written // until then the write loop may read the callers' bytes
	<-c.read    // it may be at the answer to an earlier one
	for {
		c.mu.Lock()
		calls := c.inflight
		c.inflight, c.drained = nil, len(calls) == 0
		c.mu.Unlock()
		if len(calls) == 0 {
			return
		}
		for _, cl := range calls {
			c.giveBack(cl)
			cl.done(nil, err)
		}
	}
}

// giveBack gives a call's slot back.
func (c *Conn) giveBack(cl *call) {
	if !cl.own {
		<-c.slots
	}
}

// recordBufferBytes is how much of a request is put together for TLS: headers and small
// batches share records.
const recordBufferBytes = 64 << 10

// What waits already goes in the same system call, up to so many buffers, as the system takes
// 1024, and bytes: no more than a broker's socket takes while the broker reads nothing, so
// that an answer to the first request does not wait for the broker to read the last.
const (
	writeBuffersMax = 512
	writeBytesMax   = 32 << 10
)

func (c *Conn) writeLoop() {
	defer close(c.written)
	var batch []*call
	var deadline time.Time
	for {
		if len(batch) == 0 {
			select {
			case cl := <-c.out:
				batch = append(batch, cl)
			case <-c.done:
				return
			}
		}
		next := c.joined(&batch)
		if now := time.Now(); deadline.Before(now.Add(c.timeout)) {
			deadline = now.Add(c.timeout + c.timeout/8) // and good for some time
			_ = c.nc.SetWriteDeadline(deadline)
		}
		if err := c.write(batch); err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrConnClosed, err))
			return
		}
		clear(batch)
		if batch = batch[:0]; next != nil {
			batch = append(batch, next)
		}
	}
}

// joined adds to a batch what waits already, and returns what waits and does not fit; nil
// if all does.
func (c *Conn) joined(batch *[]*call) (next *call) {
	buffers, size := len((*batch)[0].bufs), (*batch)[0].size
	for {
		select {
		case cl := <-c.out:
			buffers, size = buffers+len(cl.bufs), size+cl.size
			if buffers > writeBuffersMax || size > writeBytesMax {
				return cl
			}
			*batch = append(*batch, cl)
		default:
			return nil
		}
	}
}

// write writes requests: with one system call, or one after the other.
func (c *Conn) write(batch []*call) error {
	if _, ok := c.nc.(*net.TCPConn); ok {
		bufs := c.vector[:0]
		for _, cl := range batch {
			bufs = append(bufs, cl.bufs...)
		}
		c.vector = bufs
		_, err := bufs.WriteTo(c.nc)
		if err == nil {
			c.wrote(batch[len(batch)-1])
		}
		return err
	}
	w := io.Writer(c.nc)
	if c.records != nil {
		w = c.records
	}
	for _, cl := range batch {
		for _, b := range cl.bufs {
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		c.wrote(cl)
	}
	if c.records != nil {
		return c.records.Flush()
	}
	return nil
}

// wrote notes that nobody reads the bytes of a request, and of those before, any more.
func (c *Conn) wrote(cl *call) {
	c.sent.Store(cl.corr)
	if c.early.Swap(false) {
		c.more <- struct{}{} // has room: early is set by who takes it
	}
}

// awaitSent waits until all bytes of a request are written. Its answer can come before, from
// a broker that has not read all of it, or while the write loop is about to go on; the
// caller must not have the bytes back until then.
func (c *Conn) awaitSent(corr int32) error {
	for c.sent.Load()-corr < 0 { // the numbers may begin anew
		c.early.Store(true)
		if c.sent.Load()-corr >= 0 && c.early.Swap(false) {
			return nil
		}
		select {
		case <-c.more:
		case <-c.done:
			return ErrConnClosed
		}
	}
	return nil
}

func (c *Conn) readLoop() {
	defer close(c.read)
	// Large enough for small answers; large ones bypass it.
	r := bufio.NewReaderSize(c.nc, 16<<10)
	for {
		if err := c.readOne(r); err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrConnClosed, err))
			return
		}
	}
}

func (c *Conn) readOne(r *bufio.Reader) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := int(int32(binary.BigEndian.Uint32(head[:]))) - 4
	corr := int32(binary.BigEndian.Uint32(head[4:]))
	if size < 0 || size > c.bytesMax {
		return fmt.Errorf("the broker announces an answer of %d bytes", size)
	}
	c.mu.Lock()
	if len(c.inflight) == 0 || c.inflight[0].corr != corr {
		c.mu.Unlock()
		return fmt.Errorf("the broker answers request %d out of order", corr)
	}
	cl := c.inflight[0]
	c.mu.Unlock()
	buf, err := readBuffer(r, size, c.buffers)
	if err != nil {
		return err
	}
	if cl.flexible {
		body, err := layout.SkipTags(buf.B)
		if err != nil {
			buf.Release()
			return fmt.Errorf("the header of the broker's answer: %w", err)
		}
		buf.B = body
	}
	if err := c.awaitSent(corr); err != nil {
		buf.Release()
		return err
	}
	c.mu.Lock()
	if c.err != nil { // drain answers it
		c.mu.Unlock()
		buf.Release()
		return c.err
	}
	c.contact.answered()
	c.inflight = c.inflight[1:]
	if len(c.inflight) == 0 {
		c.inflight = nil
	}
	c.mu.Unlock()
	c.giveBack(cl)
	cl.done(buf, nil)
	return nil
}

// handshake asks for the broker's versions: v0, which every broker answers.
func (c *Conn) handshake() error {
	req := kmsg.NewPtrApiVersionsRequest()
	req.SetVersion(0)
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID(c.clientID))
	if _, err := c.nc.Write(f.AppendRequest(nil, req, 0)); err != nil {
		return err
	}
	var head [8]byte
	if _, err := io.ReadFull(c.nc, head[:]); err != nil {
		return err
	}
	if head[0] == 0x15 && head[1] == 0x03 { // an alert
		return errSpeaksTLS
	}
	size := int(int32(binary.BigEndian.Uint32(head[:]))) - 4
	if size < 0 || size > 1<<20 {
		return fmt.Errorf("the broker announces an answer of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.nc, body); err != nil {
		return err
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.SetVersion(0)
	if err := Decode(resp, body); err != nil {
		return err
	}
	c.versions = make(map[int16][2]int16, len(resp.ApiKeys))
	for _, k := range resp.ApiKeys {
		c.versions[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
	}
	if c.Version(kmsg.Produce.Int16(), 3, 11) < 0 || c.Version(kmsg.Fetch.Int16(), 4, 12) < 0 {
		return errors.New("the broker is older than Kafka 0.11, or not a Kafka broker")
	}
	return nil
}
