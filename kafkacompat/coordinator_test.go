package kafkacompat_test

import (
	"context"
	"testing"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gateway/groups"
)

// elsewhere is the coordinator of a gateway that owns no group.
type elsewhere struct{ groups.Coordinator }

func newCoordinator(*testing.T, *world) groups.Coordinator { return elsewhere{} }

var errElsewhere = federation.Errorf(federation.NotCoordinator, "another gateway coordinates the group")

func (elsewhere) Join(context.Context, groups.JoinRequest) (groups.JoinResponse, error) {
	return groups.JoinResponse{}, errElsewhere
}

func (elsewhere) Sync(context.Context, groups.SyncRequest) (groups.SyncResponse, error) {
	return groups.SyncResponse{}, errElsewhere
}

func (elsewhere) Heartbeat(context.Context, groups.HeartbeatRequest) error { return errElsewhere }

func (elsewhere) Leave(context.Context, string, []groups.LeavingMember) ([]error, error) {
	return nil, errElsewhere
}

func (elsewhere) Commit(context.Context, groups.CommitRequest) ([]error, error) {
	return nil, errElsewhere
}

func (elsewhere) Committed(context.Context, string, []federation.TopicPartition) ([]groups.CommittedOffset, error) {
	return nil, errElsewhere
}

func (elsewhere) DeleteOffsets(context.Context, string, []federation.TopicPartition) ([]error, error) {
	return nil, errElsewhere
}

func (elsewhere) Describe(context.Context, string) (groups.Description, error) {
	return groups.Description{}, errElsewhere
}

func (elsewhere) List(context.Context) ([]groups.Listing, error) { return nil, nil }

func (elsewhere) Delete(context.Context, string) error { return errElsewhere }
