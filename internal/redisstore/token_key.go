package redisstore

import (
	"context"
	"crypto/rand"
)

// tokenKeyBytes is the size of the key that TokenKey makes.
const tokenKeyBytes = 32

// TokenKey returns the secret with which all gateways of a logical cluster sign
// producer identities. Whoever asks first makes it. It fails with StoreUnavailable.
func (s *Store) TokenKey(ctx context.Context, logicalCluster string) ([]byte, error) {
	fresh := make([]byte, tokenKeyBytes)
	_, _ = rand.Read(fresh) // never fails since Go 1.24
	key := s.key(logicalCluster, "token-key")
	if err := s.rdb.SetNX(ctx, key, fresh, 0).Err(); err != nil {
		return nil, unavailable(err)
	}
	b, err := s.rdb.Get(ctx, key).Bytes()
	return b, unavailable(err)
}
