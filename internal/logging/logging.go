// Package logging keeps clients from filling the logs: what they choose is cut, and lines
// that they can cause are limited.
package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Config has the bounds of logs. Zero fields take the defaults.
type Config struct {
	// ValueBytesMax is how much of a value is logged; 1,024 by default, which holds every
	// name of a topic or user.
	ValueBytesMax int
	// ClientLines bounds the lines of one kind that clients cause, in a second: 1 by
	// default. Ten seconds' worth are logged at once.
	ClientLines float64
}

// valueBytesMin holds the name of every topic.
const valueBytesMin = 256

// Validate refuses what makes no sense.
func (c Config) Validate() error {
	if c.ValueBytesMax != 0 && c.ValueBytesMax < valueBytesMin {
		return fmt.Errorf("--log-value-bytes %d: want %d or more", c.ValueBytesMax, valueBytesMin)
	}
	if c.ClientLines < 0 {
		return errors.New("--log-client-lines must not be negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.ValueBytesMax == 0 {
		c.ValueBytesMax = 1024
	}
	if c.ClientLines == 0 {
		c.ClientLines = 1
	}
	return c
}

// New makes a logger that writes text, or JSON.
func New(w io.Writer, level slog.Level, json bool, cfg Config) *slog.Logger {
	cfg = cfg.withDefaults()
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return cutAttr(a, cfg.ValueBytesMax) }}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if json {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(&handler{h, cfg, nil})
}

// Cut returns the beginning of a text that is longer than limit, and how long that was.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	end := limit
	for end > max(0, limit-utf8.UTFMax) && !utf8.RuneStart(text[end]) {
		end--
	}
	return fmt.Sprintf("%s… (cut: %d bytes)", text[:end], len(text))
}

// stackKey is the key of stacks of panics, which clients do not write.
const (
	stackKey      = "stack"
	stackBytesMax = 64 << 10
)

// cutAttr cuts a value. Handlers escape what cannot be printed.
func cutAttr(a slog.Attr, limit int) slog.Attr {
	if a.Key == stackKey {
		limit = stackBytesMax
	}
	switch a.Value.Kind() {
	case slog.KindString:
		if text := a.Value.String(); len(text) > limit {
			a.Value = slog.StringValue(Cut(text, limit))
		}
	case slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(Cut(err.Error(), limit))
		} else if text := fmt.Sprintf("%+v", a.Value.Any()); len(text) > limit {
			a.Value = slog.StringValue(Cut(text, limit))
		}
	default: // of bounded length
	}
	return a
}

// A handler passes records on; with a limiter, as many as that lets by.
type handler struct {
	slog.Handler
	cfg     Config
	limiter *limiter // nil = all
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.cfg, h.limiter}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.cfg, h.limiter}
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if h.limiter == nil || r.Level < slog.LevelInfo { // who looks for faults wants all of them
		return h.Handler.Handle(ctx, r)
	}
	left, ok := h.limiter.take(r.Message, r.Time)
	if !ok {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out", left))
	}
	return h.Handler.Handle(ctx, r)
}

// Limited returns a logger for lines that clients can cause. Of those with one message, the
// first are written at once, and then so many a second as Config says; the next one that is
// written says how many were left out before. Loggers made of it by With share the limits.
func Limited(l *slog.Logger) *slog.Logger {
	cfg := Config{}.withDefaults()
	next := l.Handler()
	if h, ok := next.(*handler); ok {
		if h.limiter != nil {
			return l
		}
		cfg, next = h.cfg, h.Handler
	}
	return slog.New(&handler{next, cfg, &limiter{rate: cfg.ClientLines, kinds: make(map[string]*kind)}})
}

// burst is for how many seconds lines are written at once.
const burst = 10

// kindsMax bounds the messages that are told apart; there are fewer, if they are constants.
const kindsMax = 256

type limiter struct {
	rate float64

	mu    sync.Mutex // guards the following
	kinds map[string]*kind
}

type kind struct {
	tokens float64
	at     time.Time
	left   int
}

func (l *limiter) take(message string, now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[message]
	if k == nil {
		if len(l.kinds) >= kindsMax {
			message = "" // all further ones together
			k = l.kinds[message]
		}
		if k == nil {
			k = &kind{tokens: max(1, burst*l.rate), at: now}
			l.kinds[message] = k
		}
	}
	if d := now.Sub(k.at); d > 0 {
		k.tokens, k.at = min(max(1, burst*l.rate), k.tokens+d.Seconds()*l.rate), now
	}
	if k.tokens < 1 {
		k.left++
		return 0, false
	}
	k.tokens--
	left, k.left = k.left, 0
	return left, true
}

// HTTPErrors returns what a http.Server logs to: about its connections, which clients can
// cause. told is called for each line, whether it is about a TLS handshake; it may be nil.
func HTTPErrors(l *slog.Logger, told func(tls bool)) *log.Logger { //nolint:forbidigo // http.Server wants one
	return log.New(&httpErrors{Limited(l), told}, "", 0) //nolint:forbidigo // likewise
}

type httpErrors struct {
	log  *slog.Logger
	told func(tls bool)
}

// Write implements io.Writer: it gets a line at a time.
func (h *httpErrors) Write(b []byte) (int, error) {
	text, isTLS := strings.CutPrefix(strings.TrimSpace(string(b)), "http: TLS handshake error from ")
	if h.told != nil {
		h.told(isTLS)
	}
	switch {
	case isTLS && strings.HasSuffix(text, ": EOF"): // who only looks whether the port is open
		h.log.Debug("TLS handshake failed", "error", text)
	case isTLS:
		h.log.Info("TLS handshake failed", "error", text)
	default:
		h.log.Warn("a connection of the HTTP server failed", "error", text)
	}
	return len(b), nil
}
