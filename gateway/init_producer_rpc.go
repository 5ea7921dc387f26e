package gateway

import (
	"context"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/router"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// InitProducer hands out a producer identity, for ProduceBatch and for raw batches.
func (s *producerService) InitProducer(ctx context.Context, r *braidv1.InitProducerRequest) (*braidv1.InitProducerResponse, error) {
	res, err := s.g.initProducerCall(ctx, r)
	return res, s.g.fail(ctx, "InitProducer", err)
}

func (g *Gateway) initProducerCall(ctx context.Context, r *braidv1.InitProducerRequest) (*braidv1.InitProducerResponse, error) {
	if err := g.cluster(r.GetLogicalCluster()); err != nil {
		return nil, err
	}
	if err := g.mayInitProducer(ctx, "InitProducer"); err != nil {
		return nil, err
	}
	ctx, cancel := g.withUnaryTimeout(ctx)
	defer cancel()
	session := g.deps.NewSession()
	defer session.Close()
	identity, err := g.initProducer(ctx, session, r.GetCurrent())
	if err != nil {
		return nil, err
	}
	g.rememberProducer(-1, r.GetCurrent(), nil)
	return &braidv1.InitProducerResponse{Producer: identity}, nil
}

// initProducer makes a new identity; current, which it replaces, must be one that
// braid handed out. It always gets a fresh id: two that take over the same
// identity at two gateways would else write the same sequences, and brokers would
// take the records of one for repeats of the other's.
func (g *Gateway) initProducer(ctx context.Context, session router.Session, current *braidv1.ProducerIdentity) (*braidv1.ProducerIdentity, error) {
	if current != nil {
		if err := g.tokens.verify(ctx, g.cfg.LogicalCluster, current); err != nil {
			return nil, err
		}
	}
	id, epoch, err := session.InitProducer(ctx, -1, -1)
	if err != nil {
		return nil, err
	}
	return g.tokens.sign(ctx, g.cfg.LogicalCluster, id, epoch)
}

// rememberProducer notes which stream writes as a producer, and ends the one
// that wrote as the producer it replaces. Either may be absent.
func (g *Gateway) rememberProducer(id int64, current *braidv1.ProducerIdentity, st *produceStream) {
	var fenced *produceStream
	g.mu.Lock()
	if st != nil {
		g.producers[id] = st
	}
	if current != nil {
		fenced = g.producers[current.GetProducerId()]
	}
	g.mu.Unlock()
	if fenced != nil && fenced != st {
		fenced.end(federation.Errorf(federation.ProducerFenced, "another stream took over producer %d", current.GetProducerId()))
	}
}

func (g *Gateway) forgetProducer(st *produceStream) {
	if id := st.s.opened.id; id >= 0 {
		g.mu.Lock()
		delete(g.producers, id)
		g.mu.Unlock()
	}
}
