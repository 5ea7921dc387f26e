package redisstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/redisstore"
)

func TestTokenKeyIsTheSameForAll(t *testing.T) {
	onStores(t, func(t *testing.T, s *redisstore.Store) {
		first, err := s.TokenKey(t.Context(), "default")
		require.NoError(t, err)
		require.Len(t, first, 32)
		again, err := s.TokenKey(t.Context(), "default")
		require.NoError(t, err)
		require.Equal(t, first, again)
		other, err := s.TokenKey(t.Context(), "other")
		require.NoError(t, err)
		require.NotEqual(t, first, other)
	})
}
