package gateway

import (
	"context"
	"net/http"
	"sync"

	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
)

// A coalescer is the ResponseWriter of a data stream. Connect flushes after each
// message, which for small messages costs several times what the message does.
// The coalescer keeps them until a good piece is there, or until the stream has
// nothing more to send at the moment: then it says flushStream. One goroutine at
// a time uses it, as any ResponseWriter.
type coalescer struct {
	http.ResponseWriter
	bytes int
	buf   *[]byte // nil while nothing is kept
}

type coalescerKey struct{}

var coalesceBuffers = sync.Pool{New: func() any { return new([]byte) }}

// coalesce puts a coalescer before the data streams.
func (g *Gateway) coalesce(next http.Handler) http.Handler {
	if g.cfg.CoalesceBytes < 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case braidv1connect.ProducerServiceProduceProcedure, braidv1connect.ConsumerServiceConsumeProcedure, braidv1connect.ConsumerServiceReadProcedure:
			c := &coalescer{ResponseWriter: w, bytes: g.cfg.CoalesceBytes}
			defer c.release()
			next.ServeHTTP(c, r.WithContext(context.WithValue(r.Context(), coalescerKey{}, c)))
			_ = c.write() // a client that is gone misses nothing
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// flushStream sends what the stream's coalescer keeps; a stream calls it before
// it waits. Its error shows at the next write.
func flushStream(ctx context.Context) {
	if c, ok := ctx.Value(coalescerKey{}).(*coalescer); ok && c.buf != nil {
		c.flush()
	}
}

// Write keeps small pieces and passes large ones on.
func (c *coalescer) Write(p []byte) (int, error) {
	kept := 0
	if c.buf != nil {
		kept = len(*c.buf)
	}
	if kept+len(p) > c.bytes {
		if err := c.write(); err != nil {
			return 0, err
		}
	}
	if len(p) >= c.bytes {
		return c.ResponseWriter.Write(p)
	}
	if c.buf == nil {
		c.buf = coalesceBuffers.Get().(*[]byte)
	}
	*c.buf = append(*c.buf, p...)
	return len(p), nil
}

// Flush is Connect's after each message. It passes only where nothing is kept:
// headers, and what was large.
func (c *coalescer) Flush() {
	if c.buf == nil {
		c.flush()
	}
}

// Unwrap is for http.ResponseController.
func (c *coalescer) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *coalescer) flush() {
	if c.write() == nil {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
	}
}

// write hands on what is kept.
func (c *coalescer) write() error {
	if c.buf == nil {
		return nil
	}
	_, err := c.ResponseWriter.Write(*c.buf)
	c.release()
	return err
}

func (c *coalescer) release() {
	if c.buf != nil {
		*c.buf = (*c.buf)[:0]
		coalesceBuffers.Put(c.buf)
		c.buf = nil
	}
}
