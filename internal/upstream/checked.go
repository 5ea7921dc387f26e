package upstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/internal/layout"
)

// A checkedConn is a connection of the general client. It holds each answer back until it
// is there as a whole, and passes it on if it is one to the oldest request, and as long as
// it says; else the connection is of no use any more, and Read returns an [AnswerError].
//
// Like any net.Conn it may be read, written and closed at the same time; by one goroutine
// each.
type checkedConn struct {
	net.Conn
	bytesMax int
	garbled  func(error)

	mu    sync.Mutex // guards the following
	asked []asked    // and not answered, oldest first

	// Of the writer: the request under way.
	head [requestHeadBytes]byte
	have int // bytes of head
	rest int // bytes behind it that are still to come

	// Of the reader.
	in     *bufio.Reader
	frame  bytes.Buffer // of which answer is the rest
	answer []byte       // checked, and not read yet
	err    error
}

// asked is a request that waits for its answer.
type asked struct {
	key, version int16
	corr         int32
}

const (
	requestHeadBytes = 4 + 2 + 2 + 4 // size, key, version, correlation id
	// keptFrameBytes is up to what size the buffer of an answer is kept for the next one.
	keptFrameBytes = 64 << 10
)

func newCheckedConn(nc net.Conn, bytesMax int, garbled func(error)) *checkedConn {
	return &checkedConn{Conn: nc, bytesMax: bytesMax, garbled: garbled, in: bufio.NewReader(nc)}
}

// Write implements net.Conn.
func (c *checkedConn) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if c.rest > 0 {
			n := min(c.rest, len(rest))
			rest = rest[n:]
			c.rest -= n
			continue
		}
		n := copy(c.head[c.have:], rest)
		rest = rest[n:]
		if c.have += n; c.have == len(c.head) {
			if err := c.ask(); err != nil {
				return 0, err
			}
		}
	}
	return c.Conn.Write(p)
}

// ask notes the request whose head is there.
func (c *checkedConn) ask() error {
	size := int(int32(binary.BigEndian.Uint32(c.head[:])))
	a := asked{
		key: int16(binary.BigEndian.Uint16(c.head[4:])), version: int16(binary.BigEndian.Uint16(c.head[6:])),
		corr: int32(binary.BigEndian.Uint32(c.head[8:])),
	}
	c.have, c.rest = 0, size-(requestHeadBytes-4)
	switch {
	case kmsg.Key(a.key) == kmsg.SASLHandshake && a.version == 0:
		// What follows would have no head, and neither would the answers.
		return &saslError{errors.New("the broker does not know SASL as of Kafka 2.0")}
	case c.rest < 0 || layouts[a.key] == nil:
		return fmt.Errorf("the layout of answers to API %d is not known", a.key)
	}
	c.mu.Lock()
	c.asked = append(c.asked, a)
	c.mu.Unlock()
	return nil
}

// Read implements net.Conn. It waits for an answer as a whole: what is announced, and does
// not come, costs no memory.
func (c *checkedConn) Read(p []byte) (int, error) {
	if len(c.answer) == 0 {
		if c.err == nil {
			c.err = c.next()
			if _, ok := errors.AsType[*AnswerError](c.err); ok {
				c.garbled(c.err)
			}
		}
		if c.err != nil {
			return 0, c.err
		}
	}
	n := copy(p, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// next reads and checks the next answer.
func (c *checkedConn) next() error {
	if c.frame.Cap() > keptFrameBytes {
		c.frame = bytes.Buffer{}
	}
	c.frame.Reset()
	var head [8]byte
	if n, err := io.ReadFull(c.in, head[:4]); err != nil {
		return cutShort(err, n > 0)
	}
	c.mu.Lock()
	var a asked
	known := len(c.asked) > 0
	if known {
		a, c.asked = c.asked[0], c.asked[1:]
	}
	c.mu.Unlock()
	bad := func(format string, args ...any) error { return &AnswerError{a.key, fmt.Errorf(format, args...)} }
	size := int(int32(binary.BigEndian.Uint32(head[:])))
	switch {
	case head[0] == 0x15 && head[1] == 0x03: // an alert
		return errSpeaksTLS
	case !known:
		return bad("nothing was asked")
	case size < 4 || size > c.bytesMax:
		return bad("it says that it has %d bytes", size)
	}
	if _, err := io.ReadFull(c.in, head[4:]); err != nil {
		return cutShort(err, true)
	}
	if corr := int32(binary.BigEndian.Uint32(head[4:])); corr != a.corr {
		return bad("it is the one to request %d in place of %d", corr, a.corr)
	}
	c.frame.Write(head[:])
	if _, err := io.CopyN(&c.frame, c.in, int64(size-4)); err != nil {
		return cutShort(err, true)
	}
	throttle, err := a.check(c.frame.Bytes()[len(head):])
	if err != nil {
		return bad("%w", err)
	}
	if len(throttle) == 4 && int32(binary.BigEndian.Uint32(throttle)) > throttleMillisMax {
		binary.BigEndian.PutUint32(throttle, throttleMillisMax)
	}
	c.answer = c.frame.Bytes()
	return nil
}

// cutShort is the error of a read that ended in the midst of an answer, as io.ReadFull has it.
func cutShort(err error, within bool) error {
	if within && errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// throttleMillisMax is for how long the general client is told not to ask a broker again: it
// heeds weeks. Brokers enforce their quotas by themselves, and read nothing meanwhile (KIP-219).
const throttleMillisMax = 1000

// check walks what is behind the correlation id of an answer as the general client will
// decode it, and returns the bytes that say for how long the broker throttles; none if it
// does not say.
func (a asked) check(b []byte) (throttle []byte, err error) {
	kind := kmsg.ResponseForKey(a.key)
	kind.SetVersion(a.version)
	if kmsg.Key(a.key) == kmsg.ApiVersions { // the header has no tags in any version (KIP-511)
		if len(b) >= 2 && b[1] == byte(kerr.UnsupportedVersion.Code) {
			kind.SetVersion(0)
		}
	} else if kind.IsFlexible() {
		if b, err = layout.SkipTags(b); err != nil {
			return nil, err
		}
	}
	fields, before := layouts[a.key], 0
	switch kmsg.Key(a.key) {
	case kmsg.SASLHandshake, kmsg.SASLAuthenticate:
		before = len(fields) // they do not say it
	case kmsg.Produce:
		before = 1
	case kmsg.ApiVersions:
		before = 2
	default: // it is the first field
	}
	walk := func(fields layout.Fields, b []byte) []byte {
		if err == nil {
			b, err = layout.Walk(fields, b, kind.GetVersion(), kind.IsFlexible())
		}
		return b
	}
	behind := walk(fields[:before], b)
	rest := walk(fields[before:min(before+1, len(fields))], behind)
	walk(fields[min(before+1, len(fields)):], rest)
	if err != nil {
		return nil, err
	}
	return behind[:len(behind)-len(rest)], nil
}

// garbage remembers that answers of a cluster could not be read.
type garbage struct {
	mu   sync.Mutex // guards the following
	told time.Time
	left int // lines that were left out since
}

// garbled notes an answer to the general client that cannot be read, and logs it if none
// was logged for a while.
func (c *Cluster) garbled(addr string, err error) {
	c.contact.noteFailure(err)
	g := &c.garbage
	now := time.Now()
	g.mu.Lock()
	tell, left := now.Sub(g.told) >= refusalLogInterval, g.left
	if g.left++; tell {
		g.told, g.left = now, 0
	}
	g.mu.Unlock()
	if tell {
		c.cfg.Logger.Error("a broker's answer cannot be read", "cluster", c.Name, "broker", addr, "err", err, "left_out", left)
	}
}
