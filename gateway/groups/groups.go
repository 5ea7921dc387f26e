// Package groups is the group coordinator: one engine for Kafka members
// (classic protocol) and Connect streams in the same group.
//
// Each group has one owner goroutine on the gateway that Map.GroupGateway
// picks. Its decisions are a pure step (group.go): an event in, effects out;
// records are stored in Redis, under the coordinator's ownership epoch, before
// any reply leaves. State is persisted at each rebalance, so a gateway that
// stops or dies hands its groups over without a rebalance.
package groups

import (
	"context"
	"time"

	"github.com/braidmq/braid/federation"
)

// Maps is the engine's view of the federation.
type Maps interface {
	Current() *federation.Map
	Changed() <-chan struct{}
}

// Coordinator is the engine as the doors see it. All methods return errors of
// type *federation.Error: NotCoordinator if another gateway owns the group,
// CoordinatorLoading or StoreUnavailable while Redis is away.
//
// Methods may be called concurrently and block until the answer is known (Join
// and Sync for a rebalance), or ctx ends.
type Coordinator interface {
	// The classic protocol (KIP-62, KIP-345, KIP-394, KIP-429).
	Join(ctx context.Context, r JoinRequest) (JoinResponse, error)
	Sync(ctx context.Context, r SyncRequest) (SyncResponse, error)
	Heartbeat(ctx context.Context, r HeartbeatRequest) error
	// ConsumerHeartbeat is all of Kafka's newer protocol (KIP-848): a member joins, learns
	// what to read, gives up and leaves by it. It does not wait for others.
	ConsumerHeartbeat(ctx context.Context, r ConsumerHeartbeatRequest) (ConsumerHeartbeatResponse, error)
	Leave(ctx context.Context, group string, members []LeavingMember) ([]error, error)

	// Offsets. All offsets are logical; they are stored by topic id, so a topic that
	// is created again does not inherit them.
	Commit(ctx context.Context, r CommitRequest) ([]error, error)
	// Committed returns the offsets of the given partitions in their order (Offset -1 =
	// none), or all of the group's if tps is nil. Any gateway does, whoever coordinates.
	Committed(ctx context.Context, group string, tps []federation.TopicPartition) ([]CommittedOffset, error)
	// CheckEpoch says whether a member of the newer protocol is in an epoch: UnknownMember
	// or StaleMemberEpoch if not. Any gateway does.
	CheckEpoch(ctx context.Context, group, memberID string, epoch int32) error
	DeleteOffsets(ctx context.Context, group string, tps []federation.TopicPartition) ([]error, error)

	// Admin.
	Describe(ctx context.Context, group string) (Description, error)
	// List returns the groups that this gateway coordinates.
	List(ctx context.Context) ([]Listing, error)
	Delete(ctx context.Context, group string) error

	// Subscribe makes a Connect stream a member. The Membership lives until Leave or
	// until ctx ends (the member then stays for its session timeout).
	Subscribe(ctx context.Context, r SubscribeRequest) (Membership, error)
}

// A Protocol is a supported assignor of a classic member with its metadata, the
// bytes of a ConsumerProtocolSubscription where ProtocolType is "consumer".
type Protocol struct {
	Name     string
	Metadata []byte
}

// JoinRequest is JoinGroup.
type JoinRequest struct {
	Group            string
	MemberID         string // empty = new
	InstanceID       string // static member (KIP-345); empty = dynamic
	ClientID         string
	ClientHost       string
	Principal        string // who the member is
	ProtocolType     string
	Protocols        []Protocol
	SessionTimeout   time.Duration
	RebalanceTimeout time.Duration
	// RequireMemberID is set for JoinGroup v4 and later: a new dynamic member gets
	// MemberIDRequired and its id first (KIP-394).
	RequireMemberID bool
	// SkipAssignment is set for JoinGroup v9 and later (KIP-814).
	CanSkipAssignment bool
	Reason            string
	// Taken is called when the group has its copy of what it keeps of the request, or has
	// refused it: long before the answer, perhaps, which waits for the other members.
	// Protocols are cleared by then, so that the memory they were in can go. Taken is called
	// by another goroutine, once at most, and not at all with some errors; it may be nil.
	Taken func()
}

// JoinResponse answers a JoinRequest. With an error of kind MemberIDRequired only
// MemberID is set.
type JoinResponse struct {
	MemberID       string
	Generation     int32
	ProtocolType   string
	ProtocolName   string
	LeaderID       string
	SkipAssignment bool
	Members        []JoinMember // for the leader only
}

// A JoinMember is a member as the leader sees it.
type JoinMember struct {
	MemberID   string
	InstanceID string
	Metadata   []byte
}

// SyncRequest is SyncGroup.
type SyncRequest struct {
	Group        string
	MemberID     string
	InstanceID   string
	Generation   int32
	ProtocolType string // empty = not checked
	ProtocolName string // empty = not checked
	Assignments  []MemberAssignment
}

// A MemberAssignment is what the leader gives a member.
type MemberAssignment struct {
	MemberID   string
	Assignment []byte
}

// SyncResponse answers a SyncRequest.
type SyncResponse struct {
	ProtocolType string
	ProtocolName string
	Assignment   []byte
}

// HeartbeatRequest is Heartbeat.
type HeartbeatRequest struct {
	Group      string
	MemberID   string
	InstanceID string
	Generation int32
}

// ConsumerHeartbeatRequest is ConsumerGroupHeartbeat. What is not set has not changed.
type ConsumerHeartbeatRequest struct {
	Group            string
	MemberID         string // of the client's own making; empty = to be made (version 0)
	InstanceID       string // static member; empty = dynamic
	Epoch            int32  // the member's; 0 = joins, -1 = leaves, -2 = leaves and will be back (static)
	ClientID         string
	ClientHost       string
	Principal        string // who the member is; empty = anybody, who sees all topics
	Rack             string
	RebalanceTimeout time.Duration               // negative = not set
	Topics           []federation.TopicName      // nil = not set
	TopicRegex       *string                     // RE2 over whole logical names; empty = none
	Assignor         string                      // uniform | range
	Owned            []federation.TopicPartition // what the member reads; nil = not set
}

// ConsumerHeartbeatResponse answers a ConsumerHeartbeatRequest.
type ConsumerHeartbeatResponse struct {
	MemberID   string
	Epoch      int32
	Interval   time.Duration     // of heartbeats
	Assignment []TopicAssignment // what the member should read now; nil = as before
}

// TopicAssignment are the partitions of a topic that a member should read.
type TopicAssignment struct {
	Topic      federation.TopicName
	ID         federation.TopicID
	Partitions []federation.LogicalPartition
}

// A LeavingMember leaves by its member id, or as a static member by its instance id.
type LeavingMember struct {
	MemberID   string
	InstanceID string
	Reason     string
}

// CommitRequest is OffsetCommit, or a commit of a Connect member. MemberID empty
// and Generation -1 is a commit from outside, refused while the group has members.
type CommitRequest struct {
	Group      string
	MemberID   string
	InstanceID string
	Generation int32 // of a Connect or modern member: its member epoch
	// NoEpochs is set for OffsetCommit below version 9, which members of the newer
	// protocol must not use.
	NoEpochs bool
	Offsets  []CommitOffset
}

// A CommitOffset is a position to store.
type CommitOffset struct {
	federation.TopicPartition
	Offset   federation.LogicalOffset
	Epoch    federation.LogicalEpoch
	Metadata string
}

// A CommittedOffset is a stored position.
type CommittedOffset struct {
	federation.TopicPartition
	Offset      federation.LogicalOffset
	Epoch       federation.LogicalEpoch
	Metadata    string
	CommittedMs int64
}

// A Listing is a group in a list.
type Listing struct {
	Group        string
	ProtocolType string
	State        string // Kafka's names: Empty, PreparingRebalance, CompletingRebalance, Reconciling, Stable, Dead
	Type         string // classic | consumer
}

// A Description is a group with its members.
type Description struct {
	Group        string
	State        string
	ProtocolType string
	ProtocolName string
	Epoch        int64  // generation
	Type         string // classic | consumer
	Assignor     string // of a group of type consumer: uniform | range
	Members      []DescribedMember
}

// How a member takes part in its group.
const (
	ProtocolConnect  = "connect"
	ProtocolClassic  = "kafka-classic"
	ProtocolConsumer = "kafka-consumer"
)

// A DescribedMember is a member of a Description.
type DescribedMember struct {
	MemberID   string
	InstanceID string
	ClientID   string
	ClientHost string
	Protocol   string // connect | kafka-classic | kafka-consumer
	Metadata   []byte
	Assignment []byte // ConsumerProtocolAssignment, also for Connect members
	Partitions []federation.TopicPartition
	// Of all members of a group of type consumer.
	Epoch  int64
	Rack   string
	Topics []federation.TopicName
	Regex  string
	Target []federation.TopicPartition // what it should read
}

// SubscribeRequest makes a Connect member.
type SubscribeRequest struct {
	Group            string
	InstanceID       string
	FormerID         string // the member that the client was on a stream that broke; empty = none
	ClientID         string
	ClientHost       string
	Principal        string `json:",omitempty"` // who the member is
	Topics           []federation.TopicName
	TopicRegex       string // RE2 over whole logical names; empty = none
	SessionTimeout   time.Duration
	RebalanceTimeout time.Duration
	// MemberID and MemberEpoch are set by a gateway that carries a live membership over
	// to another coordinator: the member goes on without a rebalance.
	MemberID    string
	MemberEpoch int64
	// Owned is what such a member reads at the moment, without what it gave up. Events
	// that the former coordinator could not bring any more are made up for in the first
	// one.
	Owned []federation.TopicPartition
}

// A Membership is a Connect member's side of its group. Events must be read.
// Methods may be called concurrently.
type Membership interface {
	MemberID() string
	// Events brings assignment changes in order, the first one at once, even if it
	// assigns nothing yet. It is closed when the membership ended, and Err says why.
	Events() <-chan AssignmentEvent
	// Err returns why Events was closed: UnknownMember or FencedInstance if the member
	// was fenced, NotCoordinator if another gateway took the group over,
	// CoordinatorLoading if the store does not answer; nil after Leave or if the context
	// of Subscribe ended.
	Err() error
	// Alive tells the coordinator that the client was heard of.
	Alive()
	// Commit stores offsets; one error per offset: IllegalGeneration for a partition
	// that is not the member's any more.
	Commit(ctx context.Context, offsets []CommitOffset) ([]error, error)
	// Revoked says that the member is done with partitions of AssignmentEvent.Revoking.
	Revoked(ctx context.Context, tps []federation.TopicPartition) error
	// Leave ends the membership: its partitions go to others at once, so the reader must
	// have stopped. If it fails, the caller ends the context of Subscribe, and the member
	// stays for its session timeout.
	Leave(ctx context.Context) error
}

// An AssignmentEvent changes what a Connect member reads.
type AssignmentEvent struct {
	MemberEpoch int64
	Assigned    []CommittedOffset           // new partitions, with their committed offsets (-1 = none)
	Revoking    []federation.TopicPartition // stop, commit, answer with Revoked
	Lost        []federation.TopicPartition // stop: they are elsewhere; can name one that was just given up
	Deadline    time.Duration               // for Revoking
}
