package groups

import (
	"context"
	"errors"
	"sync"

	"github.com/braidmq/braid/federation"
)

var errCut = errors.New("connection lost")

// cluster gives a gateway a Cluster that reaches the others through pipes in memory.
func (w *world) cluster(gw *gateway) *Cluster {
	if gw.cluster == nil {
		gw.cluster = NewCluster(ClusterConfig{Engine: gw.engine, Dial: func(_ context.Context, to *federation.Gateway) (Peer, error) {
			return &pipePeer{w: w, to: w.gateways[to.ID]}, nil
		}})
	}
	return gw.cluster
}

type pipePeer struct {
	w  *world
	to *gateway
}

func (p *pipePeer) gone() bool {
	select {
	case <-p.to.ended:
		return true
	default:
		return p.to.away.Load()
	}
}

func (p *pipePeer) Call(ctx context.Context, _, group, method string, message []byte) ([]byte, error) {
	if p.gone() {
		return nil, errCut
	}
	return ServeCall(ctx, p.to.engine, group, method, message)
}

func (p *pipePeer) Member(ctx context.Context) (Pipe, error) {
	if p.gone() {
		return nil, errCut
	}
	near := &memPipe{in: make(chan []byte, 16), out: make(chan []byte, 16), cut: make(chan struct{}), once: new(sync.Once)}
	far := &memPipe{in: near.out, out: near.in, cut: near.cut, once: near.once}
	go func() {
		defer func() { _ = far.Close() }()
		serve, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		go func() {
			select {
			case <-far.cut:
			case <-p.to.ended:
				_ = far.Close()
			}
			stop()
		}()
		_ = ServeMember(serve, p.to.engine, far.Recv, far.Send)
	}()
	return near, nil
}

// A memPipe is one end of a connection in memory. What was sent before it was
// closed can still be received.
type memPipe struct {
	in, out chan []byte
	cut     chan struct{}
	once    *sync.Once
}

func (p *memPipe) Send(b []byte) error {
	select {
	case p.out <- b:
		return nil
	case <-p.cut:
		return errCut
	}
}

func (p *memPipe) Recv() ([]byte, error) {
	select {
	case b := <-p.in:
		return b, nil
	default:
	}
	select {
	case b := <-p.in:
		return b, nil
	case <-p.cut:
	}
	select {
	case b := <-p.in:
		return b, nil
	default:
		return nil, errCut
	}
}

func (p *memPipe) Close() error {
	p.once.Do(func() { close(p.cut) })
	return nil
}
