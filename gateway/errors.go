package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
	"github.com/braidmq/braid/internal/rpcerror"
)

// internalMessage is what a client learns of an error that nobody classified;
// the text of such an error may name physical addresses.
const internalMessage = "internal error; the server's log says more"

// failure is an error as it travels inside a frame.
func failure(err error) *braidv1.Failure {
	kind, message := federation.KindOf(err), internalMessage
	var e *federation.Error
	switch {
	case errors.As(err, &e):
		message = e.Message
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		kind, message = federation.ClusterUnavailable, "the call ended before the answer was there"
	}
	return &braidv1.Failure{Reason: rpcerror.Reason(kind), Message: message, Retriable: kind.Retriable()}
}

// earlierFailure is the failure of what the failure barrier stopped.
func earlierFailure(barrier uint64) *braidv1.Failure {
	return &braidv1.Failure{
		Reason:    braidv1.Reason_REASON_EARLIER_FAILURE,
		Message:   fmt.Sprintf("batch %d failed for this partition before; send again with failure_seen %d or above", barrier, barrier),
		Retriable: true,
	}
}

func partitionFailure(tp federation.TopicPartition, err error) *braidv1.PartitionFailure {
	return &braidv1.PartitionFailure{Topic: string(tp.Topic), Partition: int32(tp.Partition), Failure: failure(err)}
}

func invalid(format string, args ...any) error {
	return federation.Errorf(federation.InvalidArgument, format, args...)
}

// staleCount is the failure of a frame that was made for another partition count.
func staleCount(topic federation.TopicName, current, client int32) *braidv1.Failure {
	return &braidv1.Failure{
		Reason:    braidv1.Reason_REASON_STALE_PARTITION_COUNT,
		Message:   fmt.Sprintf("topic %q has %d partitions, the frame was made for %d; split it again", topic, current, client),
		Retriable: true,
	}
}

// isContextError reports whether a call ended because its context did.
func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// logInternal logs an error that is told to a client inside a frame, if the
// client learns nothing of it there.
func (g *Gateway) logInternal(what string, tp federation.TopicPartition, err error) {
	if err != nil && federation.KindOf(err) == federation.Internal && !isContextError(err) {
		g.log.Error("unclassified error of a partition", "what", what, "topic", tp.Topic, "partition", tp.Partition, "err", err)
	}
}
