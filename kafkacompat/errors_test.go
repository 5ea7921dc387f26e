package kafkacompat

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
)

// fetchCodes are the codes that Java's FetchCollector handles; on any other it
// throws IllegalStateException in the application.
var fetchCodes = map[*kerr.Error]bool{
	kerr.NotLeaderForPartition: true, kerr.ReplicaNotAvailable: true, kerr.KafkaStorageError: true,
	kerr.FencedLeaderEpoch: true, kerr.OffsetNotAvailable: true, kerr.UnknownTopicOrPartition: true,
	kerr.UnknownTopicID: true, kerr.InconsistentTopicID: true, kerr.OffsetOutOfRange: true,
	kerr.TopicAuthorizationFailed: true, kerr.UnknownLeaderEpoch: true, kerr.UnknownServerError: true,
	kerr.CorruptMessage: true,
}

// neverAnswered are codes that make some client give up for braid's own reasons.
var neverAnswered = map[*kerr.Error]bool{kerr.BrokerNotAvailable: true, kerr.UnknownProducerID: true}

func TestErrorTableIsTotal(t *testing.T) {
	for _, k := range federation.Kinds() {
		c, ok := table[k]
		require.True(t, ok, "kind %d has no row", k)
		for _, e := range []*kerr.Error{c.any, c.produce, c.fetch} {
			require.NotNil(t, e, "kind %d", k)
			require.False(t, neverAnswered[e], "kind %d: %s", k, e.Message)
		}
		require.True(t, fetchCodes[c.fetch], "kind %d: Java's consumer throws on %s in a Fetch", k, c.fetch.Message)
		// REBALANCE_IN_PROGRESS is not retriable in Kafka's sense: the member joins again.
		if k.Retriable() && c.any != kerr.RebalanceInProgress {
			require.True(t, c.any.Retriable, "kind %d is retriable, %s is not", k, c.any.Message)
		}
		if k.Retriable() && (k < federation.NotCoordinator || k > federation.OffsetMetadataTooLarge) {
			require.True(t, c.produce.Retriable, "kind %d is retriable, %s is not", k, c.produce.Message)
			require.True(t, c.fetch.Retriable, "kind %d is retriable, %s is not", k, c.fetch.Message)
		}
	}
	require.Len(t, table, len(federation.Kinds()))
}

func TestMessagesNameNothingPhysical(t *testing.T) {
	err := errors.New("dial tcp 10.1.2.3:9092: refused")
	require.Equal(t, kerr.UnknownServerError, codesOf(err).any)
	require.NotContains(t, *message(err), "10.1.2.3")
	wrapped := federation.Errorf(federation.ClusterUnavailable, "cluster eu-1 does not answer").WithCause(err)
	require.Equal(t, "cluster eu-1 does not answer", *message(fmt.Errorf("append: %w", wrapped)))
	require.Nil(t, message(nil))
	require.Equal(t, table[federation.ClusterUnavailable], codesOf(errors.Join(wrapped)))
}
