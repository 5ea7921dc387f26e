package gateway

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/internal/memory"
)

// expandMemory is how much memory a message of the largest size takes while it is
// decompressed, as a multiple of its size: the buffer that it goes to doubles, and is
// copied when it does.
const expandMemory = 3

// Expansions bounds how many messages are decompressed at a time, by all Gateways that
// share it. It needs nothing from a client, so whoever waits does not wait for long.
type Expansions struct {
	slots chan struct{}
	most  int // bytes of a message
}

func newExpansions(most int, requests *memory.Budget) *Expansions {
	n := runtime.GOMAXPROCS(0) // more would not be faster
	if size := requests.Size(); size > 0 {
		n = min(n, int(size)/(expandMemory*most))
	}
	return &Expansions{slots: make(chan struct{}, max(1, n)), most: most}
}

// option makes gzip as these bounds want it.
func (e *Expansions) option() connect.HandlerOption {
	return connect.WithCompression("gzip",
		func() connect.Decompressor { return &expander{of: e} },
		func() connect.Compressor { return gzip.NewWriter(io.Discard) })
}

// An expander decompresses one message after the other. Connect resets it to nothing when
// it is done with one.
//
// Connect gathers the message in a buffer that doubles, and keeps buffers for later. So all
// of a message is decompressed into slabs before any of it is handed out: one that is too
// large ends there.
type expander struct {
	gzip.Reader
	of    *Expansions
	slot  bool
	whole bool
	slabs []*[]byte // what is not handed out yet
	at    int       // how far the first one is
}

// Sizes of slabs: most messages fit into the first.
const (
	expandFirst = 64 << 10
	expandStep  = 1 << 20
)

// Reset implements connect.Decompressor.
func (x *expander) Reset(r io.Reader) error {
	if r == http.NoBody {
		x.done()
		_ = x.Reader.Reset(r) // it keeps no reference; there is no header to read
		return nil
	}
	x.of.slots <- struct{}{}
	x.slot = true
	err := x.Reader.Reset(r)
	if err != nil {
		x.done()
	}
	return err
}

// Read implements io.Reader. It ends with an error where the message gets too large: to
// see how large it would be costs a thousand times of what it cost to send.
func (x *expander) Read(p []byte) (int, error) {
	if !x.whole {
		if err := x.gather(); err != nil {
			return 0, err
		}
		x.whole = true
	}
	if len(x.slabs) == 0 {
		return 0, io.EOF
	}
	first := x.slabs[0]
	n := copy(p, (*first)[x.at:])
	if x.at += n; x.at == len(*first) {
		memory.PutSlab(first)
		x.slabs, x.at = x.slabs[1:], 0
	}
	return n, nil
}

// gather decompresses a message.
func (x *expander) gather() error {
	size := expandFirst
	for got := 0; ; size = expandStep {
		b := memory.GetSlab(size)
		x.slabs = append(x.slabs, b)
		for room := (*b)[:size]; len(*b) < size; {
			n, err := x.Reader.Read(room[len(*b):])
			*b = room[:len(*b)+n]
			if got += n; got > x.of.most {
				return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("message is larger than %d bytes when it is decompressed", x.of.most))
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}

// Close implements connect.Decompressor.
func (x *expander) Close() error {
	x.done()
	return x.Reader.Close()
}

func (x *expander) done() {
	for _, b := range x.slabs {
		memory.PutSlab(b)
	}
	x.slabs, x.at, x.whole = nil, 0, false
	if x.slot {
		<-x.of.slots
		x.slot = false
	}
}
