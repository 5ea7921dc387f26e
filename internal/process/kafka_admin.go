package process

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/kafkacompat"
)

// Bounds of the retries of a call to a controller: while the lead changes hands,
// Kafka clients see no error.
const (
	adminRetryWait = 100 * time.Millisecond
	adminRetryMax  = 15 * time.Second
)

// kafkaAdmin is the control plane as the Kafka facade needs it, over the admin
// services of the leading controller.
type kafkaAdmin struct {
	topics adminv1connect.TopicServiceClient
	acls   adminv1connect.AclServiceClient
	quotas adminv1connect.QuotaServiceClient
	groups adminv1connect.GroupConfigServiceClient
	parent string // logicalClusters/{lc}
	tenant bool   // errors name no physical clusters
}

var _ kafkacompat.Admin = (*kafkaAdmin)(nil)

func newKafkaAdmin(clients controllerClients, logicalCluster string) *kafkaAdmin {
	return &kafkaAdmin{topics: clients.topics, acls: clients.acls, quotas: clients.quotas, groups: clients.groups, parent: "logicalClusters/" + logicalCluster}
}

func (a *kafkaAdmin) name(topic federation.TopicName) string {
	return a.parent + "/topics/" + string(topic)
}

// retry repeats a call while no controller leads. What it calls must be safe to
// do twice.
func retry(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, adminRetryMax)
	defer cancel()
	for {
		err := rpcerror.FromError(call(ctx))
		if kind := federation.KindOf(err); err == nil || kind != federation.NotLeader && kind != federation.StoreUnavailable {
			return err
		}
		timer := time.NewTimer(adminRetryWait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// ofTenant has errors say what a tenant may know.
func (a *kafkaAdmin) ofTenant() *kafkaAdmin {
	a.tenant = true
	return a
}

func (a *kafkaAdmin) retry(ctx context.Context, call func(context.Context) error) error {
	err := retry(ctx, call)
	if e, ok := errors.AsType[*federation.Error](err); ok && a.tenant {
		return e.ForTenant()
	}
	return err
}

// CreateTopic implements kafkacompat.Admin.
func (a *kafkaAdmin) CreateTopic(ctx context.Context, spec kafkacompat.TopicSpec) error {
	req := &adminv1.CreateTopicRequest{
		Parent: a.parent, TopicId: string(spec.Name), RequestId: uuid.NewString(), ValidateOnly: spec.ValidateOnly,
		Topic: &adminv1.Topic{PartitionCount: spec.Partitions, ReplicationFactor: int32(spec.ReplicationFactor), Config: spec.Config},
	}
	return a.retry(ctx, func(ctx context.Context) error {
		_, err := a.topics.CreateTopic(ctx, req)
		return err
	})
}

// DeleteTopic implements kafkacompat.Admin. A try whose answer was lost can have
// deleted the topic: the next one then does not find it.
func (a *kafkaAdmin) DeleteTopic(ctx context.Context, name federation.TopicName) error {
	tried := false
	return a.retry(ctx, func(ctx context.Context) error {
		_, err := a.topics.DeleteTopic(ctx, &adminv1.DeleteTopicRequest{Name: a.name(name)})
		if tried && federation.KindOf(rpcerror.FromError(err)) == federation.UnknownTopic {
			return nil
		}
		tried = true
		return err
	})
}

// GrowTopic implements kafkacompat.Admin.
func (a *kafkaAdmin) GrowTopic(ctx context.Context, name federation.TopicName, total int32, validateOnly bool) error {
	req := &adminv1.GrowTopicRequest{Name: a.name(name), PartitionCount: total, RequestId: uuid.NewString(), ValidateOnly: validateOnly}
	return a.retry(ctx, func(ctx context.Context) error {
		_, err := a.topics.GrowTopic(ctx, req)
		return err
	})
}

// SetTopicConfig implements kafkacompat.Admin.
func (a *kafkaAdmin) SetTopicConfig(ctx context.Context, name federation.TopicName, set map[string]string, unset []string, validateOnly bool) error {
	mask := &fieldmaskpb.FieldMask{}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		mask.Paths = append(mask.Paths, "config."+k)
	}
	for _, k := range unset {
		mask.Paths = append(mask.Paths, "config."+k)
	}
	if len(mask.GetPaths()) == 0 {
		return nil
	}
	req := &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: a.name(name), Config: set}, UpdateMask: mask, ValidateOnly: validateOnly}
	return a.retry(ctx, func(ctx context.Context) error {
		_, err := a.topics.UpdateTopic(ctx, req)
		return err
	})
}

// TopicConfig implements kafkacompat.Admin.
func (a *kafkaAdmin) TopicConfig(ctx context.Context, name federation.TopicName) (map[string]kafkacompat.ConfigValue, error) {
	var values map[string]kafkacompat.ConfigValue
	err := a.retry(ctx, func(ctx context.Context) error {
		resp, err := a.topics.GetTopic(ctx, &adminv1.GetTopicRequest{Name: a.name(name)})
		if err != nil {
			return err
		}
		values = make(map[string]kafkacompat.ConfigValue, len(resp.GetTopic().GetConfig()))
		for k, v := range resp.GetTopic().GetConfig() {
			values[k] = kafkacompat.ConfigValue{Value: v}
		}
		return nil
	})
	return values, err
}
