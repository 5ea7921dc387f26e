package kafkacompat

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/braidmq/braid/federation"
)

// codes are the Kafka error codes of one kind of error. The same kind needs
// different codes in places, because clients decide by API what they can handle:
//
//   - Java's FetchCollector throws IllegalStateException in the application for
//     any code that it does not list, LEADER_NOT_AVAILABLE and REQUEST_TIMED_OUT
//     among them. So fetch holds only codes of that list.
//   - All five producer families retry produce's codes where the kind is
//     retriable; never BROKER_NOT_AVAILABLE, which fails the batch in most.
type codes struct {
	any, produce, fetch *kerr.Error
}

func same(e *kerr.Error) codes { return codes{e, e, e} }

// table is the one mapping from kinds to Kafka's codes; it is total.
var table = map[federation.Kind]codes{
	federation.Internal:                 same(kerr.UnknownServerError),
	federation.UnknownTopic:             same(kerr.UnknownTopicOrPartition),
	federation.UnknownPartition:         same(kerr.UnknownTopicOrPartition),
	federation.TopicExists:              notFetched(kerr.TopicAlreadyExists),
	federation.InvalidTopicName:         {kerr.InvalidTopicException, kerr.InvalidTopicException, kerr.UnknownTopicOrPartition},
	federation.InvalidPartitionCount:    notFetched(kerr.InvalidPartitions),
	federation.InvalidReplicationFactor: notFetched(kerr.InvalidReplicationFactor),
	federation.InvalidConfig:            notFetched(kerr.InvalidConfig),
	federation.InvalidArgument:          notFetched(kerr.InvalidRequest),
	federation.PolicyViolation:          notFetched(kerr.PolicyViolation),
	federation.Unsupported:              notFetched(kerr.UnsupportedVersion),
	federation.NotAuthorized:            same(kerr.TopicAuthorizationFailed),
	federation.Unauthenticated:          notFetched(kerr.SaslAuthenticationFailed),
	federation.UnknownCredential:        notFetched(kerr.ResourceNotFound),

	federation.RecordTooLarge:         notFetched(kerr.MessageTooLarge),
	federation.InvalidRecord:          notFetched(kerr.InvalidRecord),
	federation.CorruptBatch:           same(kerr.CorruptMessage),
	federation.InvalidTimestamp:       notFetched(kerr.InvalidTimestamp),
	federation.UnsupportedCompression: notFetched(kerr.UnsupportedCompressionType),
	federation.OutOfOrderSequence:     notFetched(kerr.OutOfOrderSequenceNumber),
	federation.DuplicateSequence:      notFetched(kerr.DuplicateSequenceNumber),
	// Produce answers with INVALID_PRODUCER_EPOCH, as brokers do since KIP-588.
	federation.ProducerFenced: {kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.UnknownServerError},
	// Never UNKNOWN_PRODUCER_ID: librdkafka can fail the producer for good on it,
	// where all raise their epoch on an out-of-order sequence.
	federation.UnknownProducer:    {kerr.InvalidProducerIDMapping, kerr.OutOfOrderSequenceNumber, kerr.UnknownServerError},
	federation.NotEnoughReplicas:  {kerr.NotEnoughReplicas, kerr.NotEnoughReplicas, kerr.NotLeaderForPartition},
	federation.Timeout:            {kerr.RequestTimedOut, kerr.RequestTimedOut, kerr.NotLeaderForPartition},
	federation.NoLeader:           same(kerr.NotLeaderForPartition),
	federation.ClusterUnavailable: {kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition},
	federation.Throttled:          {kerr.ThrottlingQuotaExceeded, kerr.RequestTimedOut, kerr.NotLeaderForPartition},

	federation.OffsetOutOfRange: same(kerr.OffsetOutOfRange),
	federation.FencedEpoch:      same(kerr.FencedLeaderEpoch),
	federation.UnknownEpoch:     same(kerr.UnknownLeaderEpoch),

	federation.NotCoordinator:         notFetched(kerr.NotCoordinator),
	federation.CoordinatorLoading:     {kerr.CoordinatorLoadInProgress, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition},
	federation.StoreUnavailable:       {kerr.CoordinatorLoadInProgress, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition},
	federation.UnknownMember:          notFetched(kerr.UnknownMemberID),
	federation.IllegalGeneration:      notFetched(kerr.IllegalGeneration),
	federation.RebalanceInProgress:    notFetched(kerr.RebalanceInProgress),
	federation.MemberIDRequired:       notFetched(kerr.MemberIDRequired),
	federation.InconsistentProtocol:   notFetched(kerr.InconsistentGroupProtocol),
	federation.InvalidSessionTimeout:  notFetched(kerr.InvalidSessionTimeout),
	federation.InvalidGroupID:         notFetched(kerr.InvalidGroupID),
	federation.GroupNotEmpty:          notFetched(kerr.NonEmptyGroup),
	federation.GroupNotFound:          notFetched(kerr.GroupIDNotFound),
	federation.GroupFull:              notFetched(kerr.GroupMaxSizeReached),
	federation.GroupSubscribed:        notFetched(kerr.GroupSubscribedToTopic),
	federation.FencedInstance:         notFetched(kerr.FencedInstanceID),
	federation.UnreleasedInstance:     notFetched(kerr.UnreleasedInstanceID),
	federation.OffsetMetadataTooLarge: notFetched(kerr.OffsetMetadataTooLarge),

	federation.FencedMemberEpoch:   notFetched(kerr.FencedMemberEpoch),
	federation.StaleMemberEpoch:    notFetched(kerr.StaleMemberEpoch),
	federation.UnsupportedAssignor: notFetched(kerr.UnsupportedAssignor),
	federation.InvalidRegex:        notFetched(kerr.InvalidRegularExpression),

	federation.UnknownCluster: notFetched(kerr.InvalidRequest),
	// Both pass: Java's Admin tries again after NOT_CONTROLLER by itself, and shows a
	// retriable TimeoutException for the other.
	federation.Conflict:  {kerr.RequestTimedOut, kerr.RequestTimedOut, kerr.NotLeaderForPartition},
	federation.NotLeader: {kerr.NotController, kerr.NotLeaderForPartition, kerr.NotLeaderForPartition},
}

// notFetched is for kinds that have no meaning in a Fetch.
func notFetched(e *kerr.Error) codes { return codes{e, e, kerr.UnknownServerError} }

func codesOf(err error) codes {
	if c, ok := table[federation.KindOf(err)]; ok {
		return c
	}
	return table[federation.Internal]
}

// fail maps err to a code, 0 for nil, and notes it as the request's error.
func (r *request) fail(err error) int16 {
	if err == nil {
		return 0
	}
	return r.failed(codesOf(err).any.Code, err)
}

func (r *request) failProduce(err error) int16 {
	if err == nil {
		return 0
	}
	return r.failed(codesOf(err).produce.Code, err)
}

func (r *request) failFetch(err error) int16 {
	if err == nil {
		return 0
	}
	return r.failed(codesOf(err).fetch.Code, err)
}

// failed notes a code; the first one is the request's in metrics.
func (r *request) failed(code int16, err error) int16 {
	if r.code == 0 {
		r.code = code
	}
	if err != nil && federation.KindOf(err) == federation.Internal {
		r.internal = err
	}
	return code
}

// refuse notes and returns the code of a Kafka error.
func (r *request) refuse(e *kerr.Error) int16 { return r.failed(e.Code, nil) }

// message returns the text of an error that clients may see: that of a
// federation.Error. Any other text could name physical addresses.
func message(err error) *string {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*federation.Error](err); ok {
		return &e.Message
	}
	s := "internal error of the gateway; its log says more"
	return &s
}
