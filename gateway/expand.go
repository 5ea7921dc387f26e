package gateway

import (
	"compress/gzip"
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
type expander struct {
	gzip.Reader
	of   *Expansions
	left int // bytes that the message may still have
	slot bool
}

// Reset implements connect.Decompressor.
func (x *expander) Reset(r io.Reader) error {
	if r == http.NoBody {
		x.done()
		_ = x.Reader.Reset(r) // it keeps no reference; there is no header to read
		return nil
	}
	x.of.slots <- struct{}{}
	x.slot, x.left = true, x.of.most
	err := x.Reader.Reset(r)
	if err != nil {
		x.done()
	}
	return err
}

// Read implements io.Reader. It ends with an error where the message gets too large: to
// see how large it would be costs a thousand times of what it cost to send.
func (x *expander) Read(p []byte) (int, error) {
	n, err := x.Reader.Read(p[:min(len(p), x.left+1)])
	if x.left -= n; x.left < 0 {
		return 0, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("message is larger than %d bytes when it is decompressed", x.of.most))
	}
	return n, err
}

// Close implements connect.Decompressor.
func (x *expander) Close() error {
	x.done()
	return x.Reader.Close()
}

func (x *expander) done() {
	if x.slot {
		<-x.of.slots
		x.slot = false
	}
}
