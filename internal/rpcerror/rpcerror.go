// Package rpcerror is the one table between the kinds of errors that braid
// shares and what its Connect doors put on the wire: a code, and a
// google.rpc.ErrorInfo of domain "braid" whose reason is a braid.v1.Reason.
//
// The finer kind travels in the ErrorInfo's metadata, so that one part of braid
// that calls another gets back the very error that the other one made.
package rpcerror

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/braidmq/braid/federation"
	braidv1 "github.com/braidmq/braid/gen/braid/v1"
)

// Domain is the domain of every ErrorInfo of braid.
const Domain = "braid"

// The metadata keys of an ErrorInfo.
const (
	metadataKind  = "kind"  // the federation.Kind, by the name in the table
	metadataRetry = "retry" // whether the same request can succeed later

	// What the error is about; there are only those that are known.
	metadataTopic     = "topic"
	metadataPartition = "partition"
	metadataCluster   = "cluster" // a physical one
	metadataGroup     = "group"
	metadataSetting   = "setting"
)

// publicLocale and publicBytesMax are of the detail with what a tenant is told instead of
// the message.
const (
	publicLocale   = "en"
	publicBytesMax = 2048
)

// internalMessage is all that a client learns of an error that nobody classified.
const internalMessage = "internal error; the server's log says more"

type row struct {
	name   string
	code   connect.Code
	reason braidv1.Reason
}

// table is total over federation.Kinds. Of the kinds that share a reason, the
// first one listed in kindOfReason is what a reason alone stands for.
var table = map[federation.Kind]row{
	federation.Internal:                 {"INTERNAL", connect.CodeInternal, braidv1.Reason_REASON_INTERNAL},
	federation.UnknownTopic:             {"UNKNOWN_TOPIC", connect.CodeNotFound, braidv1.Reason_REASON_UNKNOWN_TOPIC},
	federation.UnknownPartition:         {"UNKNOWN_PARTITION", connect.CodeNotFound, braidv1.Reason_REASON_UNKNOWN_PARTITION},
	federation.TopicExists:              {"TOPIC_EXISTS", connect.CodeAlreadyExists, braidv1.Reason_REASON_ALREADY_EXISTS},
	federation.InvalidTopicName:         {"INVALID_TOPIC_NAME", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidPartitionCount:    {"INVALID_PARTITION_COUNT", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidReplicationFactor: {"INVALID_REPLICATION_FACTOR", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidConfig:            {"INVALID_CONFIG", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidArgument:          {"INVALID_ARGUMENT", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.PolicyViolation:          {"POLICY_VIOLATION", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.Unsupported:              {"UNSUPPORTED", connect.CodeUnimplemented, braidv1.Reason_REASON_UNSUPPORTED},
	federation.NotAuthorized:            {"NOT_AUTHORIZED", connect.CodePermissionDenied, braidv1.Reason_REASON_NOT_AUTHORIZED},

	federation.Unauthenticated:   {"UNAUTHENTICATED", connect.CodeUnauthenticated, braidv1.Reason_REASON_UNAUTHENTICATED},
	federation.UnknownCredential: {"UNKNOWN_CREDENTIAL", connect.CodeNotFound, braidv1.Reason_REASON_UNKNOWN_CREDENTIAL},

	federation.RecordTooLarge:         {"RECORD_TOO_LARGE", connect.CodeInvalidArgument, braidv1.Reason_REASON_RECORD_TOO_LARGE},
	federation.InvalidRecord:          {"INVALID_RECORD", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_RECORD},
	federation.CorruptBatch:           {"CORRUPT_BATCH", connect.CodeInvalidArgument, braidv1.Reason_REASON_CORRUPT_BATCH},
	federation.InvalidTimestamp:       {"INVALID_TIMESTAMP", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_RECORD},
	federation.UnsupportedCompression: {"UNSUPPORTED_COMPRESSION", connect.CodeInvalidArgument, braidv1.Reason_REASON_UNSUPPORTED},
	federation.OutOfOrderSequence:     {"OUT_OF_ORDER_SEQUENCE", connect.CodeFailedPrecondition, braidv1.Reason_REASON_OUT_OF_ORDER_SEQUENCE},
	federation.DuplicateSequence:      {"DUPLICATE_SEQUENCE", connect.CodeAlreadyExists, braidv1.Reason_REASON_ALREADY_EXISTS},
	federation.ProducerFenced:         {"PRODUCER_FENCED", connect.CodeAborted, braidv1.Reason_REASON_PRODUCER_FENCED},
	federation.UnknownProducer:        {"UNKNOWN_PRODUCER", connect.CodeFailedPrecondition, braidv1.Reason_REASON_OUT_OF_ORDER_SEQUENCE},
	federation.NotEnoughReplicas:      {"NOT_ENOUGH_REPLICAS", connect.CodeUnavailable, braidv1.Reason_REASON_NOT_ENOUGH_REPLICAS},
	federation.Timeout:                {"TIMEOUT", connect.CodeDeadlineExceeded, braidv1.Reason_REASON_DELIVERY_TIMEOUT},
	federation.NoLeader:               {"NO_LEADER", connect.CodeUnavailable, braidv1.Reason_REASON_NO_LEADER},
	federation.ClusterUnavailable:     {"CLUSTER_UNAVAILABLE", connect.CodeUnavailable, braidv1.Reason_REASON_CLUSTER_UNAVAILABLE},
	federation.Throttled:              {"THROTTLED", connect.CodeResourceExhausted, braidv1.Reason_REASON_THROTTLED},

	federation.OffsetOutOfRange: {"OFFSET_OUT_OF_RANGE", connect.CodeOutOfRange, braidv1.Reason_REASON_OFFSET_OUT_OF_RANGE},
	federation.FencedEpoch:      {"FENCED_EPOCH", connect.CodeAborted, braidv1.Reason_REASON_NO_LEADER},
	federation.UnknownEpoch:     {"UNKNOWN_EPOCH", connect.CodeUnavailable, braidv1.Reason_REASON_NO_LEADER},

	federation.NotCoordinator:         {"NOT_COORDINATOR", connect.CodeUnavailable, braidv1.Reason_REASON_NO_LEADER},
	federation.CoordinatorLoading:     {"COORDINATOR_LOADING", connect.CodeUnavailable, braidv1.Reason_REASON_STORE_UNAVAILABLE},
	federation.StoreUnavailable:       {"STORE_UNAVAILABLE", connect.CodeUnavailable, braidv1.Reason_REASON_STORE_UNAVAILABLE},
	federation.UnknownMember:          {"UNKNOWN_MEMBER", connect.CodeAborted, braidv1.Reason_REASON_MEMBER_FENCED},
	federation.IllegalGeneration:      {"ILLEGAL_GENERATION", connect.CodeAborted, braidv1.Reason_REASON_STALE_ASSIGNMENT},
	federation.RebalanceInProgress:    {"REBALANCE_IN_PROGRESS", connect.CodeAborted, braidv1.Reason_REASON_STALE_ASSIGNMENT},
	federation.MemberIDRequired:       {"MEMBER_ID_REQUIRED", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InconsistentProtocol:   {"INCONSISTENT_PROTOCOL", connect.CodeFailedPrecondition, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidSessionTimeout:  {"INVALID_SESSION_TIMEOUT", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidGroupID:         {"INVALID_GROUP_ID", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.GroupNotEmpty:          {"GROUP_NOT_EMPTY", connect.CodeFailedPrecondition, braidv1.Reason_REASON_GROUP_NOT_EMPTY},
	federation.GroupNotFound:          {"GROUP_NOT_FOUND", connect.CodeNotFound, braidv1.Reason_REASON_UNKNOWN_GROUP},
	federation.GroupFull:              {"GROUP_FULL", connect.CodeResourceExhausted, braidv1.Reason_REASON_THROTTLED},
	federation.GroupSubscribed:        {"GROUP_SUBSCRIBED", connect.CodeFailedPrecondition, braidv1.Reason_REASON_GROUP_NOT_EMPTY},
	federation.FencedInstance:         {"FENCED_INSTANCE", connect.CodeAborted, braidv1.Reason_REASON_MEMBER_FENCED},
	federation.UnreleasedInstance:     {"UNRELEASED_INSTANCE", connect.CodeAborted, braidv1.Reason_REASON_MEMBER_FENCED},
	federation.OffsetMetadataTooLarge: {"OFFSET_METADATA_TOO_LARGE", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},

	// Connect members meet none of these.
	federation.FencedMemberEpoch:   {"FENCED_MEMBER_EPOCH", connect.CodeAborted, braidv1.Reason_REASON_MEMBER_FENCED},
	federation.StaleMemberEpoch:    {"STALE_MEMBER_EPOCH", connect.CodeAborted, braidv1.Reason_REASON_STALE_ASSIGNMENT},
	federation.UnsupportedAssignor: {"UNSUPPORTED_ASSIGNOR", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},
	federation.InvalidRegex:        {"INVALID_REGEX", connect.CodeInvalidArgument, braidv1.Reason_REASON_INVALID_ARGUMENT},

	federation.UnknownCluster: {"UNKNOWN_CLUSTER", connect.CodeNotFound, braidv1.Reason_REASON_UNKNOWN_CLUSTER},
	federation.Conflict:       {"CONFLICT", connect.CodeAborted, braidv1.Reason_REASON_CONFLICT},
	federation.NotLeader:      {"NOT_LEADER", connect.CodeUnavailable, braidv1.Reason_REASON_NO_LEADER},
}

// kindOfReason gives the kind of an ErrorInfo that names none.
var kindOfReason = map[braidv1.Reason]federation.Kind{
	braidv1.Reason_REASON_UNKNOWN_TOPIC:         federation.UnknownTopic,
	braidv1.Reason_REASON_UNKNOWN_PARTITION:     federation.UnknownPartition,
	braidv1.Reason_REASON_NOT_AUTHORIZED:        federation.NotAuthorized,
	braidv1.Reason_REASON_RECORD_TOO_LARGE:      federation.RecordTooLarge,
	braidv1.Reason_REASON_INVALID_RECORD:        federation.InvalidRecord,
	braidv1.Reason_REASON_OUT_OF_ORDER_SEQUENCE: federation.OutOfOrderSequence,
	braidv1.Reason_REASON_PRODUCER_FENCED:       federation.ProducerFenced,
	braidv1.Reason_REASON_DELIVERY_TIMEOUT:      federation.Timeout,
	braidv1.Reason_REASON_CLUSTER_UNAVAILABLE:   federation.ClusterUnavailable,
	braidv1.Reason_REASON_THROTTLED:             federation.Throttled,
	braidv1.Reason_REASON_OFFSET_OUT_OF_RANGE:   federation.OffsetOutOfRange,
	braidv1.Reason_REASON_STALE_ASSIGNMENT:      federation.RebalanceInProgress,
	braidv1.Reason_REASON_MEMBER_FENCED:         federation.UnknownMember,
	braidv1.Reason_REASON_NOT_ENOUGH_REPLICAS:   federation.NotEnoughReplicas,
	braidv1.Reason_REASON_CORRUPT_BATCH:         federation.CorruptBatch,
	braidv1.Reason_REASON_INVALID_ARGUMENT:      federation.InvalidArgument,
	braidv1.Reason_REASON_ALREADY_EXISTS:        federation.TopicExists,
	braidv1.Reason_REASON_STORE_UNAVAILABLE:     federation.StoreUnavailable,
	braidv1.Reason_REASON_GROUP_NOT_EMPTY:       federation.GroupNotEmpty,
	braidv1.Reason_REASON_UNKNOWN_GROUP:         federation.GroupNotFound,
	braidv1.Reason_REASON_NO_LEADER:             federation.NoLeader,
	braidv1.Reason_REASON_UNSUPPORTED:           federation.Unsupported,
	braidv1.Reason_REASON_INTERNAL:              federation.Internal,
	braidv1.Reason_REASON_UNKNOWN_CLUSTER:       federation.UnknownCluster,
	braidv1.Reason_REASON_CONFLICT:              federation.Conflict,
	braidv1.Reason_REASON_UNAUTHENTICATED:       federation.Unauthenticated,
	braidv1.Reason_REASON_UNKNOWN_CREDENTIAL:    federation.UnknownCredential,
}

// Reason returns the reason that clients see for a kind.
func Reason(k federation.Kind) braidv1.Reason { return lookup(k).reason }

// Code returns the Connect code that clients see for a kind.
func Code(k federation.Kind) connect.Code { return lookup(k).code }

func lookup(k federation.Kind) row {
	if r, ok := table[k]; ok {
		return r
	}
	return table[federation.Internal]
}

// KindName returns the name under which a kind travels and is persisted; unlike
// its number it stays when kinds are added.
func KindName(k federation.Kind) string { return lookup(k).name }

// ParseKind is the reverse of KindName; Internal if no kind has the name.
func ParseKind(name string) federation.Kind {
	for k, r := range table {
		if r.name == name {
			return k
		}
	}
	return federation.Internal
}

// Error returns err as a Connect door answers it; nil stays nil. The text of an
// error that is no *federation.Error never reaches the client: it may name
// physical addresses.
func Error(err error) *connect.Error {
	if err == nil {
		return nil
	}
	var e *federation.Error
	wire, made := errors.AsType[*connect.Error](err)
	own := errors.As(err, &e)
	switch {
	case made && (!own || !errors.Is(e, wire)): // else it is the cause of e, which FromError made of it
		return wire
	case own:
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, errors.New("the call was cancelled"))
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the call's deadline has passed"))
	default:
		e = federation.Errorf(federation.Internal, "%s", internalMessage)
	}
	r := lookup(e.Kind)
	out := connect.NewError(r.code, errors.New(e.Message))
	addDetail(out, &errdetails.ErrorInfo{
		Domain:   Domain,
		Reason:   r.reason.String(),
		Metadata: metadata(r.name, e),
	})
	if public := e.Public(); public != "" {
		text := strings.ToValidUTF8(public[:min(len(public), publicBytesMax)], "\uFFFD") // never left out: the message would be told instead
		addDetail(out, &errdetails.LocalizedMessage{Locale: publicLocale, Message: text})
	}
	if e.RetryAfter > 0 {
		addDetail(out, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	return out
}

// FromError turns what a Connect client returned back into the *federation.Error
// that the server made. Errors without an ErrorInfo of braid (the server could
// not be reached, a proxy answered) are classified by their code. The errors of
// a cancelled or expired context stay errors of the context; nil stays nil.
func FromError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*federation.Error](err); ok {
		return err
	}
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return err
	}
	kind, ok := federation.Internal, false
	var about federation.Subject
	var after time.Duration
	public := ""
	for _, d := range wire.Details() {
		value, derr := d.Value()
		if derr != nil {
			continue
		}
		switch v := value.(type) {
		case *errdetails.ErrorInfo:
			if v.GetDomain() == Domain {
				kind, about, ok = kindOfInfo(v), subjectOfInfo(v), true
			}
		case *errdetails.LocalizedMessage:
			public = v.GetMessage()
		case *errdetails.RetryInfo:
			after = v.GetRetryDelay().AsDuration()
		}
	}
	if !ok {
		if ctxErr := contextError(wire); ctxErr != nil {
			return ctxErr
		}
		kind = kindOfCode(wire.Code())
	}
	e := federation.Errorf(kind, "%s", wire.Message()).WithCause(err).WithPublic(public)
	e.RetryAfter, e.Subject = after, about
	return e
}

func kindOfInfo(info *errdetails.ErrorInfo) federation.Kind {
	if name := info.GetMetadata()[metadataKind]; name == KindName(ParseKind(name)) {
		return ParseKind(name)
	}
	return kindOfReason[braidv1.Reason(braidv1.Reason_value[info.GetReason()])]
}

func contextError(wire *connect.Error) error {
	switch wire.Code() {
	case connect.CodeCanceled:
		return context.Canceled
	case connect.CodeDeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// kindOfCode classifies an error that does not come from a braid handler.
func kindOfCode(c connect.Code) federation.Kind {
	switch c {
	case connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeOutOfRange:
		return federation.InvalidArgument
	case connect.CodeUnauthenticated:
		return federation.Unauthenticated
	case connect.CodePermissionDenied:
		return federation.NotAuthorized
	case connect.CodeResourceExhausted:
		return federation.Throttled
	case connect.CodeAborted:
		return federation.Conflict
	case connect.CodeUnimplemented:
		return federation.Unsupported
	case connect.CodeUnavailable:
		return federation.NotLeader // nobody there: look for the leader again
	default:
		return federation.Internal
	}
}

func addDetail(to *connect.Error, msg proto.Message) {
	// It only fails for messages that cannot be marshalled.
	if d, err := connect.NewErrorDetail(msg); err == nil {
		to.AddDetail(d)
	}
}
