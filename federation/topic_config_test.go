package federation_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func TestCheckTopicConfig(t *testing.T) {
	for setting, good := range map[[2]string]bool{
		{"retention.ms", "-1"}:                  true,
		{"retention.ms", "9223372036854775807"}: true,
		{"retention.ms", "a while"}:             false,
		{"retention.ms", "-2"}:                  false,
		{"retention.ms", ""}:                    false,
		{"max.message.bytes", "3000000000"}:     false,
		{"cleanup.policy", "compact,delete"}:    true,
		{"cleanup.policy", "compact, delete"}:   true,
		{"cleanup.policy", "shred"}:             false,
		{"compression.type", "zstd"}:            true,
		{"compression.type", "rar"}:             false,
		{"preallocate", "TRUE"}:                 true,
		{"preallocate", "1"}:                    false,
		{"min.cleanable.dirty.ratio", "0.5"}:    true,
		{"min.cleanable.dirty.ratio", "1.5"}:    false,
		{"message.timestamp.type", "Never"}:     false,
		{"braid.failover.read", "skip"}:         true,
		{"braid.failover.read", "wait"}:         true,
		{"braid.failover.read", " wait"}:        false,
		{"braid.failover.read", ""}:             false,
		{"a.setting.of.a.newer.kafka", "?"}:     true,
	} {
		err := federation.CheckTopicConfig("t", map[string]string{setting[0]: setting[1]})
		if good {
			require.NoError(t, err, setting)
			continue
		}
		require.Equal(t, federation.InvalidConfig, federation.KindOf(err), setting)
		require.ErrorContains(t, err, setting[0])
	}
}
