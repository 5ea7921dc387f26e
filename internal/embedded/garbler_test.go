package embedded_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A garbler is the network of a federation. On the connections to some addresses it puts
// garbage in the place of answers, while a kind of it is set.
type garbler struct {
	mu        sync.Mutex // guards the following
	rnd       *rand.Rand
	addresses map[string]bool // of the brokers
	kind      *garbageKind    // nil = answers come as they are

	made atomic.Int64 // answers that were replaced
}

// A garbageKind makes something else of answers.
type garbageKind struct {
	name string
	// frame replaces a whole frame; the connection is closed behind it if last is set. An
	// empty one is an answer that never comes.
	frame func(rnd *rand.Rand, frame []byte) (instead []byte, last bool)
	// answer changes what the frame holds; false = the frame goes as it is.
	answer func(rnd *rand.Rand, resp kmsg.Response) bool
}

// garble has answers replaced from now on; nil = none.
func (g *garbler) garble(kind *garbageKind) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kind = kind
}

// dial is a dialer of a federation.
func (g *garbler) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil || !g.addresses[address] {
		return nc, err
	}
	return &garbledConn{Conn: nc, g: g, in: bufio.NewReader(nc)}, nil
}

// A garbledConn knows what was asked, and reads answers as a whole.
type garbledConn struct {
	net.Conn
	g *garbler

	mu    sync.Mutex // guards the following
	asked []wanted
	out   []byte // of a request that is not whole

	in     *bufio.Reader
	answer []byte
	ended  bool
}

// wanted is a request without its answer.
type wanted struct{ key, version int16 }

func (c *garbledConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	for c.out = append(c.out, p...); len(c.out) >= 8; {
		size := 4 + int(binary.BigEndian.Uint32(c.out))
		if len(c.out) < size {
			break
		}
		c.asked = append(c.asked, wanted{int16(binary.BigEndian.Uint16(c.out[4:])), int16(binary.BigEndian.Uint16(c.out[6:]))})
		c.out = c.out[size:]
	}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *garbledConn) Read(p []byte) (int, error) {
	for len(c.answer) == 0 {
		if c.ended {
			_ = c.Close()
			return 0, io.EOF
		}
		head, err := c.in.Peek(4)
		if err != nil {
			return 0, err
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(c.in, frame); err != nil {
			return 0, err
		}
		c.mu.Lock()
		w := c.asked[0]
		c.asked = c.asked[1:]
		c.mu.Unlock()
		c.answer, c.ended = c.g.instead(w, frame)
	}
	n := copy(p, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// instead is what comes in place of an answer: in one of two cases it comes as it is, so
// that much of what is asked gets behind the first answers of a connection.
func (g *garbler) instead(w wanted, frame []byte) ([]byte, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.kind
	odds := 2
	if kmsg.Key(w.key) == kmsg.ApiVersions {
		odds = 10
	}
	if k == nil || g.rnd.IntN(odds) > 0 {
		return frame, false
	}
	if k.frame != nil {
		g.made.Add(1)
		return k.frame(g.rnd, frame)
	}
	resp := kmsg.ResponseForKey(w.key)
	resp.SetVersion(w.version)
	header := 8
	if resp.IsFlexible() && kmsg.Key(w.key) != kmsg.ApiVersions {
		header++ // without tags, as kfake writes it
	}
	if kmsg.Key(w.key) == kmsg.ApiVersions || resp.ReadFrom(slices.Clone(frame[header:])) != nil || !k.answer(g.rnd, resp) {
		return frame, false
	}
	g.made.Add(1)
	changed := append(slices.Clone(frame[:header]), resp.AppendTo(nil)...)
	binary.BigEndian.PutUint32(changed, uint32(len(changed)-4))
	return changed, false
}

// sized sets the length of a frame to what it has.
func sized(frame []byte) []byte {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}

func random(rnd *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
}

// garbageKinds are all kinds, but for lies that could be true: nobody can tell these.
var garbageKinds = []garbageKind{
	{name: "random bytes in place of a frame", frame: func(rnd *rand.Rand, f []byte) ([]byte, bool) { random(rnd, f); return f, false }},
	{name: "a random body", frame: func(rnd *rand.Rand, f []byte) ([]byte, bool) { random(rnd, f[8:]); return f, false }},
	{name: "cut off, and closed", frame: func(rnd *rand.Rand, f []byte) ([]byte, bool) { return f[:rnd.IntN(len(f))], true }},
	{name: "cut off, with the length that is left", frame: func(rnd *rand.Rand, f []byte) ([]byte, bool) { return sized(f[:8+rnd.IntN(len(f)-7)]), false }},
	{name: "a length of 2 GiB", frame: func(_ *rand.Rand, f []byte) ([]byte, bool) { binary.BigEndian.PutUint32(f, 1<<31-1); return f, false }},
	{name: "a length of 100 MiB", frame: func(_ *rand.Rand, f []byte) ([]byte, bool) { binary.BigEndian.PutUint32(f, 100<<20); return f, false }},
	{name: "a negative length", frame: func(_ *rand.Rand, f []byte) ([]byte, bool) { f[0] = 0xff; return f, false }},
	{name: "another correlation id", frame: func(rnd *rand.Rand, f []byte) ([]byte, bool) { f[7] ^= byte(1 + rnd.IntN(255)); return f, false }},
	{name: "counts of billions", frame: func(rnd *rand.Rand, f []byte) ([]byte, bool) {
		at := 8 + rnd.IntN(min(len(f)-7, 64))
		return sized(append(f[:at:at], 0xff, 0xff, 0xff, 0xff, 0x0f)), false
	}},
	{name: "twice", frame: func(_ *rand.Rand, f []byte) ([]byte, bool) { return append(f, f...), false }},
	{name: "nothing but a header", frame: func(_ *rand.Rand, f []byte) ([]byte, bool) { return sized(f[:8]), false }},
	{name: "no answer", frame: func(*rand.Rand, []byte) ([]byte, bool) { return nil, false }},
	{name: "closed", frame: func(*rand.Rand, []byte) ([]byte, bool) { return nil, true }},
	{name: "another version", answer: func(rnd *rand.Rand, resp kmsg.Response) bool {
		was := resp.GetVersion()
		resp.SetVersion(int16(rnd.IntN(int(resp.MaxVersion()) + 1)))
		return resp.GetVersion() != was
	}},
	{name: "empty arrays", answer: func(rnd *rand.Rand, resp kmsg.Response) bool {
		return eachField(resp, func(_ string, v reflect.Value) bool {
			if v.Kind() != reflect.Slice || v.Len() == 0 || v.Type().Elem().Kind() == reflect.Uint8 || rnd.IntN(2) == 0 {
				return false
			}
			v.SetZero()
			return true
		})
	}},
	{name: "elements twice", answer: func(rnd *rand.Rand, resp kmsg.Response) bool {
		return eachField(resp, func(_ string, v reflect.Value) bool {
			if v.Kind() != reflect.Slice || v.Len() == 0 || v.Type().Elem().Kind() != reflect.Struct || rnd.IntN(2) == 0 {
				return false
			}
			v.Set(reflect.AppendSlice(v, v))
			return true
		})
	}},
	{name: "unknown topics", answer: func(_ *rand.Rand, resp kmsg.Response) bool {
		return eachField(resp, func(name string, v reflect.Value) bool {
			switch {
			case name == "Topic" && v.Kind() == reflect.String:
				v.SetString("nobody-asked-for")
			case name == "Topic" && v.Kind() == reflect.Pointer:
				v.Set(reflect.ValueOf(new("nobody-asked-for")))
			case name == "TopicID":
				v.Index(3).SetUint(v.Index(3).Uint() ^ 1)
			default:
				return false
			}
			return true
		})
	}},
	{name: "negative numbers", answer: extremes(func(int64, int) int64 { return -7 })},
	{name: "the largest numbers", answer: extremes(func(_ int64, bits int) int64 { return 1<<(bits-1) - 1 })},
	{name: "broken records", answer: brokenRecords},
}

// extremes changes numbers: one in three, but for those that are an answer by themselves.
func extremes(to func(was int64, bits int) int64) func(rnd *rand.Rand, resp kmsg.Response) bool {
	return func(rnd *rand.Rand, resp kmsg.Response) bool {
		return eachField(resp, func(name string, v reflect.Value) bool {
			if !v.CanInt() || name == "Version" || strings.Contains(name, "Error") || v.Kind() == reflect.Int8 || rnd.IntN(3) > 0 {
				return false
			}
			v.SetInt(to(v.Int(), v.Type().Bits()))
			return true
		})
	}
}

// eachField calls change with every field of an answer, and reports whether one changed.
func eachField(resp kmsg.Response, change func(name string, v reflect.Value) bool) (changed bool) {
	var visit func(name string, v reflect.Value)
	visit = func(name string, v reflect.Value) {
		if v.CanSet() && change(name, v) {
			changed = true
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				visit(v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				return
			}
			for i := range v.Len() {
				visit(name, v.Index(i))
			}
		default:
		}
	}
	visit("", reflect.ValueOf(resp).Elem())
	return changed
}

// brokenRecords breaks the batches of a Fetch: their checksums, lengths, counts, formats,
// bytes and offsets below what was asked for.
func brokenRecords(rnd *rand.Rand, resp kmsg.Response) (changed bool) {
	f, ok := resp.(*kmsg.FetchResponse)
	if !ok {
		return false
	}
	for i := range f.Topics {
		for j := range f.Topics[i].Partitions {
			b := f.Topics[i].Partitions[j].RecordBatches
			if len(b) < 61 {
				continue
			}
			changed = true
			first := min(12+int(binary.BigEndian.Uint32(b[8:])), len(b))
			switch rnd.IntN(9) {
			case 0:
				b[17+rnd.IntN(4)] ^= 1 << rnd.IntN(8) // checksum
			case 1:
				binary.BigEndian.PutUint32(b[8:], uint32(rnd.IntN(60))) // length
			case 2:
				binary.BigEndian.PutUint32(b[8:], 1<<31-1)
			case 3:
				binary.BigEndian.PutUint32(b[57:], 1<<31-1) // count
			case 4:
				b[16] = byte(3 + rnd.IntN(100)) // magic; one of the old formats would be a lie that could be true
			case 5:
				b[21+rnd.IntN(first-21)] ^= 1 << rnd.IntN(8) // anything under the checksum; the next batch's offset is not
			case 6:
				if binary.BigEndian.Uint64(b) > uint64(binary.BigEndian.Uint32(b[23:])) {
					binary.BigEndian.PutUint64(b, 0) // the whole batch is below what was asked for
				}
			case 7:
				binary.BigEndian.PutUint64(b, 1<<63) // offset, negative
			case 8:
				random(rnd, b)
			}
		}
	}
	return changed
}
