package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/rpcerror"
)

const (
	// intakeSmallBytes is how much of a message comes in without waiting for room.
	intakeSmallBytes = 64 << 10
	// intakeGrowth is how much memory a message takes while it comes in, for each byte of
	// it: the buffer that it is gathered in doubles.
	intakeGrowth = 2
	// intakeStepBytes is what has to come of a message within the time for it.
	intakeStepBytes = 4 << 10
	// intakeImpatience is that time while others wait for room.
	intakeImpatience    = time.Second
	envelopePrefixBytes = 5 // flags and length, as Connect and gRPC have before each message of a stream
)

// intakes hold what comes in within budgets. A message is gathered in memory before
// anybody sees it, and whoever sends many halves would be given that memory many times.
type intakes struct {
	incoming *memory.Budget // of messages that are not whole yet
	requests *memory.Budget // of those that are being worked on
	max      int64          // of a message
	stall    time.Duration
	log      *slog.Logger
}

func newIntakes(cfg *Config, deps *Deps) intakes {
	return intakes{
		incoming: deps.Incoming, requests: deps.Requests,
		max: int64(cfg.MessageBytesMax), stall: cfg.StallTimeout, log: deps.Log,
	}
}

// fleetPaths are those of calls that the processes of the fleet make among themselves.
const fleetPaths = "/braid.control."

// wrap counts what clients send to a handler.
func (in *intakes) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody || strings.HasPrefix(r.URL.Path, fleetPaths) {
			next.ServeHTTP(w, r)
			return
		}
		kind := r.Header.Get("Content-Type")
		b := &intake{
			ReadCloser: r.Body, in: in, ctx: r.Context(), control: http.NewResponseController(w), from: r.RemoteAddr,
			enveloped: strings.HasPrefix(kind, "application/connect+") || strings.HasPrefix(kind, "application/grpc"),
			// Produce counts by itself what it has of whole frames.
			keeps:  r.URL.Path != braidv1connect.ProducerServiceProduceProcedure,
			stream: r.URL.Path == braidv1connect.ConsumerServiceConsumeProcedure || strings.HasPrefix(r.URL.Path, "/grpc.reflection."),
		}
		if b.size = r.ContentLength; b.size < 0 || b.size > in.max {
			b.size = in.max + 1 // what Connect reads before it refuses
		}
		if r.ProtoMajor == 1 {
			b.closes = w.Header()
		}
		r.Body = b
		if r.URL.Path == braidv1connect.ConsumerServiceReadProcedure {
			r = r.WithContext(context.WithValue(r.Context(), intakeKey{}, b))
		}
		defer b.end()
		next.ServeHTTP(w, r)
	})
}

// An intake is the body of a call. One goroutine reads, and another may end it.
type intake struct {
	io.ReadCloser
	in        *intakes
	ctx       context.Context //nolint:containedctx // of the call, for Read
	control   *http.ResponseController
	from      string
	enveloped bool // has a prefix before each message; else it is one message
	keeps     bool // a whole message is counted until the call ends
	stream    bool // ... or until the next one is asked for

	// Of the message that comes in, used by the reader.
	prefix []byte // nil before the first
	size   int64
	got    int64
	room   bool // there is for all of it
	whole  bool
	// messages is how many have begun.
	messages int

	closes http.Header // of the answer of an HTTP/1.1 call; used by the reader, which answers, too

	mu       sync.Mutex // guards the following
	ended    bool
	cut      bool  // the client did not send the rest
	charged  int64 // of incoming, without waiting for it
	acquired int64 // of incoming
	kept     int64 // of requests
	since    time.Time
	marked   int64 // got at that time
	watch    *time.Timer
	watching bool
}

var (
	errIntakeEnded = errors.New("the call has ended")
	// A second message would wait for room, and hold what the first one took.
	errOneMessage = connect.NewError(connect.CodeInvalidArgument, errors.New("the call takes one message, and a second one came"))
)

// Read implements io.Reader. It never reads beyond the end of a message.
func (b *intake) Read(p []byte) (int, error) {
	if b.awaitsEnd() {
		return b.readEnd(p)
	}
	most, err := b.admit()
	if err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), most)])
	if err != nil && b.wasCut() {
		return n, connect.NewError(connect.CodeDeadlineExceeded, errors.New("the rest of a message did not come in time"))
	}
	if counted := b.count(p[:n], err); counted != nil {
		return n, counted
	}
	return n, err
}

// awaitsEnd reports whether nothing but the end is to come.
func (b *intake) awaitsEnd() bool {
	return b.whole || b.messages > 0 && len(b.prefix) == 0 && b.keeps && !b.stream
}

// readEnd reads on behind a whole message. The client must say soon that there is no more:
// until then nobody works on what is held of it.
func (b *intake) readEnd(p []byte) (int, error) {
	b.watchAnew()
	n, err := b.ReadCloser.Read(p)
	b.pause()
	if n > 0 && b.enveloped {
		return 0, errOneMessage
	}
	if err != nil && !errors.Is(err, io.EOF) && b.wasCut() {
		return n, connect.NewError(connect.CodeDeadlineExceeded, errors.New("the end of the call did not come in time"))
	}
	return n, err
}

// wasCut reports whether the client was given up.
func (b *intake) wasCut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut && b.closes != nil {
		b.closes.Set("Connection", "close") // what is left of the body is no next request
	}
	return b.cut
}

// admit returns how much may be read next, and waits until there is room for it.
func (b *intake) admit() (int64, error) {
	switch {
	case b.enveloped && len(b.prefix) < envelopePrefixBytes:
		if len(b.prefix) == 0 && b.stream {
			b.give(true)
		}
		return int64(envelopePrefixBytes - len(b.prefix)), nil
	case b.size > b.in.max && b.enveloped:
		return b.size - b.got, nil // refused: it is thrown away as it comes
	case b.room:
		return b.size - b.got, nil
	case b.got < intakeSmallBytes:
		return min(b.size, intakeSmallBytes) - b.got, nil
	}
	b.pause()
	b.give(false) // else those who wait would keep each other from having all that there is
	n := b.size * intakeGrowth
	if err := b.in.incoming.Acquire(b.ctx, n); err != nil {
		return 0, err
	}
	b.room = true
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		b.in.incoming.Release(n)
		return 0, errIntakeEnded
	}
	b.acquired = n
	return b.size - b.got, nil
}

// count notes what was read.
func (b *intake) count(p []byte, readErr error) error {
	if b.enveloped && len(b.prefix) < envelopePrefixBytes {
		b.prefix = append(b.prefix, p...)
		if len(b.prefix) < envelopePrefixBytes {
			b.progress(len(b.prefix) > 0)
			return nil
		}
		b.size, b.got = int64(binary.BigEndian.Uint32(b.prefix[1:])), 0
		b.messages++
	} else {
		b.got += int64(len(p))
	}
	b.whole = b.got >= b.size || !b.enveloped && readErr != nil
	if !b.whole {
		if !b.room && b.size <= b.in.max+1 {
			b.charge(int64(len(p)))
		}
		b.progress(true)
		return nil
	}
	b.pause()
	if err := b.keep(); err != nil {
		return err
	}
	b.give(false)
	if b.enveloped {
		b.prefix, b.whole, b.room = b.prefix[:0], false, false
	}
	return nil
}

func (b *intake) charge(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.in.incoming.Charge(n)
		b.charged += n
	}
}

// keep counts a whole message as one that is worked on.
func (b *intake) keep() error {
	if !b.keeps || b.got == 0 || b.got > b.in.max {
		return nil
	}
	if b.got <= intakeSmallBytes {
		b.in.requests.Charge(b.got)
	} else if err := b.in.requests.Acquire(b.ctx, b.got); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		b.free(b.got)
		return errIntakeEnded
	}
	b.free(b.kept) // of a client that sends more than one message where one is wanted
	b.kept = b.got
	return nil
}

// free gives back what keep took.
func (b *intake) free(n int64) {
	if n <= intakeSmallBytes {
		b.in.requests.Uncharge(n)
	} else {
		b.in.requests.Release(n)
	}
}

// give gives back what is held of the message that came in, and of the one before if that
// is done with, too.
func (b *intake) give(done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveLocked(done)
}

func (b *intake) giveLocked(done bool) {
	b.in.incoming.Uncharge(b.charged)
	b.in.incoming.Release(b.acquired)
	b.charged, b.acquired = 0, 0
	if done && b.kept > 0 {
		b.free(b.kept)
		b.kept = 0
	}
}

type intakeKey struct{}

// requestDone gives back what is held for the request of a Read call, which has become
// positions: the stream may live for days.
func requestDone(ctx context.Context) {
	if b, ok := ctx.Value(intakeKey{}).(*intake); ok {
		b.give(true)
	}
}

// progress notes that more of a message came, and watches for the rest.
func (b *intake) progress(begun bool) {
	if !begun {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || !b.since.IsZero() && b.got-b.marked < intakeStepBytes {
		return
	}
	b.since, b.marked = time.Now(), b.got
	if b.watching {
		return
	}
	b.watching = true
	first := min(b.in.stall, intakeImpatience)
	if b.watch == nil {
		b.watch = time.AfterFunc(first, b.look)
		return
	}
	b.watch.Reset(first)
}

// watchAnew watches from now on for what comes next.
func (b *intake) watchAnew() {
	b.pause()
	b.progress(true)
}

// pause is called when nothing is waited for from the client.
func (b *intake) pause() {
	b.mu.Lock()
	b.since = time.Time{}
	b.mu.Unlock()
}

// look ends the call if its client does not send the rest of a message.
func (b *intake) look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.since.IsZero() {
		b.watching = false
		return
	}
	limit := b.in.stall
	if b.in.incoming.Waiting() > 0 || b.in.requests.Waiting() > 0 {
		limit = min(limit, intakeImpatience)
	}
	if took := time.Since(b.since); took < limit {
		b.watch.Reset(min(limit-took, intakeImpatience))
		return
	}
	b.watching, b.cut = false, true
	b.in.log.Info("a client does not send the rest of a message; its call ends", "remote", b.from, "for", limit)
	_ = b.control.SetReadDeadline(time.Unix(1, 0))
}

// end is called when the handler returns.
func (b *intake) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.giveLocked(true)
	if b.watch != nil {
		b.watch.Stop()
	}
}

// countExpanded has a compressed message counted as large as it is: the intake only saw
// how it came in.
func (in *intakes) countExpanded(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		msg, ok := r.Any().(proto.Message)
		if !ok || in.requests == nil || !compressed(r.Header()) {
			return next(ctx, r)
		}
		n := int64(proto.Size(msg))
		if err := in.requests.Acquire(ctx, n); err != nil {
			return nil, rpcerror.Error(err)
		}
		defer in.requests.Release(n)
		return next(ctx, r)
	}
}

func compressed(h http.Header) bool {
	for _, name := range []string{"Content-Encoding", "Grpc-Encoding"} {
		if v := h.Get(name); v != "" && v != "identity" {
			return true
		}
	}
	return false
}
