package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sync"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

const (
	tokenKeyBytesMin = 16
	tokenBytes       = 16
)

// A tokenSigner proves that braid handed out a producer identity: its token is a
// truncated HMAC-SHA256 over logical cluster, id and epoch. Whoever writes under
// another's producer id could make brokers refuse that producer's records.
type tokenSigner struct {
	fetch func(context.Context) ([]byte, error)

	mu  sync.Mutex // guards the following
	key []byte
}

func (s *tokenSigner) load(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	if key != nil {
		return key, nil
	}
	key, err := s.fetch(ctx)
	if err != nil {
		return nil, err
	}
	if len(key) < tokenKeyBytesMin {
		return nil, federation.Errorf(federation.Internal, "the key of producer tokens has %d bytes, want %d at least", len(key), tokenKeyBytesMin)
	}
	s.mu.Lock()
	s.key = key
	s.mu.Unlock()
	return key, nil
}

func (s *tokenSigner) token(ctx context.Context, cluster string, id int64, epoch int16) ([]byte, error) {
	key, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, key)
	var fields [10]byte
	binary.BigEndian.PutUint64(fields[:], uint64(id))
	binary.BigEndian.PutUint16(fields[8:], uint16(epoch))
	mac.Write([]byte("producer\x00"))
	mac.Write(fields[:])
	mac.Write([]byte(cluster))
	return mac.Sum(nil)[:tokenBytes], nil
}

// sign makes the identity of a producer as clients hold it.
func (s *tokenSigner) sign(ctx context.Context, cluster string, id int64, epoch int16) (*braidv1.ProducerIdentity, error) {
	token, err := s.token(ctx, cluster, id, epoch)
	if err != nil {
		return nil, err
	}
	return &braidv1.ProducerIdentity{ProducerId: id, ProducerEpoch: int32(epoch), Token: token}, nil
}

// verify checks an identity that a client sent.
func (s *tokenSigner) verify(ctx context.Context, cluster string, p *braidv1.ProducerIdentity) error {
	if p.GetProducerId() < 0 || p.GetProducerEpoch() < 0 || p.GetProducerEpoch() > math.MaxInt16 {
		return federation.Errorf(federation.InvalidArgument, "producer: id %d with epoch %d is no identity that InitProducer gives", p.GetProducerId(), p.GetProducerEpoch())
	}
	want, err := s.token(ctx, cluster, p.GetProducerId(), int16(p.GetProducerEpoch()))
	if err != nil {
		return err
	}
	if !hmac.Equal(want, p.GetToken()) {
		return federation.Errorf(federation.NotAuthorized, "producer: the token does not belong to id %d and epoch %d; take one from InitProducer", p.GetProducerId(), p.GetProducerEpoch())
	}
	return nil
}
