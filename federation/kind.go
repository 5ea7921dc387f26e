package federation

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// A Kind classifies an error. Behaviour switches on kinds, never on texts; each
// door has one total table from kinds to its own codes.
type Kind int8

// The kinds of errors.
const (
	Internal Kind = iota // a bug, or something nobody classified
	UnknownTopic
	UnknownPartition
	TopicExists
	InvalidTopicName
	InvalidPartitionCount
	InvalidReplicationFactor
	InvalidConfig
	InvalidArgument
	PolicyViolation
	Unsupported
	NotAuthorized
	Unauthenticated   // nobody has proven who the client is
	UnknownCredential // of a user

	// Appends.
	RecordTooLarge
	InvalidRecord
	CorruptBatch
	InvalidTimestamp
	UnsupportedCompression
	OutOfOrderSequence
	DuplicateSequence // success: the batch is in the log already
	ProducerFenced
	UnknownProducer
	NotEnoughReplicas
	Timeout            // the outcome of an append is unknown
	NoLeader           // retriable: the partition has no leader right now, or a head is held
	ClusterUnavailable // retriable: the physical cluster does not answer
	Throttled

	// Reads.
	OffsetOutOfRange
	FencedEpoch  // the client's leader epoch is older than ours
	UnknownEpoch // the client's leader epoch is newer than ours

	// Groups.
	NotCoordinator
	CoordinatorLoading // also: the store is away for a moment
	StoreUnavailable
	UnknownMember
	IllegalGeneration
	RebalanceInProgress
	MemberIDRequired
	InconsistentProtocol
	InvalidSessionTimeout
	InvalidGroupID
	GroupNotEmpty
	GroupNotFound
	GroupFull
	GroupSubscribed // offsets of a topic that the group subscribes to
	FencedInstance
	UnreleasedInstance
	OffsetMetadataTooLarge

	// Control plane.
	UnknownCluster
	Conflict
	NotLeader // this controller does not lead

	// Groups, of members with Kafka's newer protocol (KIP-848). At the end: gateways tell
	// each other kinds by number.
	FencedMemberEpoch   // the member gives all up and joins again
	StaleMemberEpoch    // the member has a newer epoch by now
	UnsupportedAssignor // no such server-side assignor
	InvalidRegex

	kinds // count
)

// Kinds returns all kinds, for tests of the tables that must be total.
func Kinds() []Kind {
	all := make([]Kind, kinds)
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

// An Error is an error that a client may see: what happened, to which topic,
// cluster or setting, and what to do. It never carries a physical address.
type Error struct {
	Kind    Kind
	Message string
	Subject Subject
	// RetryAfter is a hint when to try again; zero if unknown.
	RetryAfter time.Duration
	cause      error
	public     string // the message as a tenant is told it; empty = the same
}

// Errorf makes an Error. A %w in the format is kept for errors.Is and logs. The
// arguments say what the error is about, by their types: the first one of each type
// that Subject has.
func Errorf(k Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	e := &Error{Kind: k, Message: err.Error(), cause: errors.Unwrap(err), public: publicText(format, args)}
	for _, a := range args {
		e.Subject.note(a)
	}
	return e
}

// WithCause attaches a cause that only logs see.
func (e *Error) WithCause(err error) *Error { e.cause = err; return e }

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause; it is for logs, its text never reaches a client.
func (e *Error) Unwrap() error { return e.cause }

// A Subject is what an error is about. What is empty is not known, or there is none.
type Subject struct {
	Topic     TopicName         `json:"topic,omitempty"`
	Partition *LogicalPartition `json:"partition,omitempty"` // of Topic
	Cluster   ClusterName       `json:"cluster,omitempty"`
	Group     string            `json:"group,omitempty"`
	Setting   SettingName       `json:"setting,omitempty"`
}

// A SettingName names a setting of a topic.
type SettingName string

func (s *Subject) note(arg any) {
	switch v := arg.(type) {
	case TopicName:
		s.Fill(Subject{Topic: v})
	case LogicalPartition:
		s.Fill(Subject{Topic: s.Topic, Partition: &v})
	case TopicPartition:
		s.Fill(Subject{Topic: v.Topic, Partition: &v.Partition})
	case ClusterName:
		s.Fill(Subject{Cluster: v})
	case SettingName:
		s.Fill(Subject{Setting: v})
	case error:
		s.Fill(SubjectOf(v))
	}
}

// Fill takes from another subject what this one lacks. A partition comes only with
// its own topic.
func (s *Subject) Fill(from Subject) {
	s.Topic = cmp.Or(s.Topic, from.Topic)
	if s.Partition == nil && s.Topic == from.Topic {
		s.Partition = from.Partition
	}
	s.Cluster = cmp.Or(s.Cluster, from.Cluster)
	s.Group = cmp.Or(s.Group, from.Group)
	s.Setting = cmp.Or(s.Setting, from.Setting)
}

// SubjectOf returns what err is about.
func SubjectOf(err error) Subject {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Subject
	}
	return Subject{}
}

// KindOf returns the kind of err: Internal if it carries none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Retriable reports whether the same request can succeed later without any
// change by its sender.
func (k Kind) Retriable() bool {
	switch k {
	case NotEnoughReplicas, Timeout, NoLeader, ClusterUnavailable, Throttled, FencedEpoch, UnknownEpoch,
		NotCoordinator, CoordinatorLoading, StoreUnavailable, RebalanceInProgress, NotLeader, Conflict:
		return true
	default:
		return false
	}
}
