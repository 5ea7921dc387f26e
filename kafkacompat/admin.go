package kafkacompat

import (
	"context"

	"github.com/braidmq/braid/federation"
)

// Admin changes topics: the control plane as this door needs it. All errors are
// *federation.Error. Calls return when the change is made, or ctx ends; this
// gateway's map may get it a moment later. Methods may be called concurrently.
type Admin interface {
	// CreateTopic creates a topic: TopicExists, InvalidTopicName, InvalidPartitionCount,
	// InvalidReplicationFactor, InvalidConfig, PolicyViolation.
	CreateTopic(ctx context.Context, spec TopicSpec) error
	// DeleteTopic deletes a topic: UnknownTopic.
	DeleteTopic(ctx context.Context, name federation.TopicName) error
	// GrowTopic adds partitions up to total: UnknownTopic, InvalidPartitionCount.
	GrowTopic(ctx context.Context, name federation.TopicName, total int32, validateOnly bool) error
	// SetTopicConfig sets and unsets configs of a topic together: UnknownTopic, InvalidConfig.
	SetTopicConfig(ctx context.Context, name federation.TopicName, set map[string]string, unset []string, validateOnly bool) error
	// CreateACLs adds ACLs, all or none, and returns the version of the map that has them:
	// InvalidArgument, PolicyViolation.
	CreateACLs(ctx context.Context, acls []*federation.ACL) (federation.MapVersion, error)
	// DeleteACLs deletes what some filters select. It returns that by filter, and the version
	// of the map that lacks it: InvalidArgument.
	DeleteACLs(ctx context.Context, filters []federation.ACLFilter) ([][]*federation.ACL, federation.MapVersion, error)
	// AlterQuotas changes quotas, all or none, and returns the version of the map that has
	// them: InvalidArgument, PolicyViolation.
	AlterQuotas(ctx context.Context, changes []federation.QuotaChange, validateOnly bool) (federation.MapVersion, error)
	// AlterGroupConfig changes the settings of a group, and returns the version of the map that
	// has them: InvalidArgument, InvalidConfig, PolicyViolation.
	AlterGroupConfig(ctx context.Context, change *federation.GroupConfigChange, validateOnly bool) (federation.MapVersion, error)
	// TopicConfig returns the configs that were set for a topic: UnknownTopic.
	TopicConfig(ctx context.Context, name federation.TopicName) (map[string]ConfigValue, error)
}

// A TopicSpec is a topic to create.
type TopicSpec struct {
	Name              federation.TopicName
	Partitions        int32
	ReplicationFactor int16 // 0 = as the physical clusters have it
	Config            map[string]string
	ValidateOnly      bool
}

// A ConfigValue is a config that was set for a topic.
type ConfigValue struct {
	Value     string
	Sensitive bool
	ReadOnly  bool
}
