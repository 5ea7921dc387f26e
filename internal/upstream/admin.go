package upstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
)

// ClusterInfo describes a physical cluster.
type ClusterInfo struct {
	ClusterID  string
	Controller int32
	Brokers    []BrokerInfo
}

// BrokerInfo describes a physical broker. It never leaves the gateway.
type BrokerInfo struct {
	ID   int32
	Host string
	Port int32
	Rack string
}

// TopicInfo describes a physical topic.
type TopicInfo struct {
	Partitions []PartitionInfo // index = physical partition
}

// PartitionInfo describes a physical partition.
type PartitionInfo struct {
	Leader   int32 // -1 = none
	Epoch    federation.PhysicalEpoch
	Replicas []int32
	ISR      []int32
}

// ConfigValue is one configuration value of a physical topic.
type ConfigValue struct {
	Value     string
	Default   bool // not set on the topic itself
	Sensitive bool
	ReadOnly  bool
}

// request sends a request to whichever broker it belongs to, with retries.
func request[R kmsg.Response](ctx context.Context, c *Cluster, req kmsg.Request) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AdminTimeout)
	defer cancel()
	var zero R
	resp, err := c.generalClient().Request(ctx, req)
	if err != nil {
		return zero, c.unavailable(err)
	}
	c.letIn()
	return resp.(R), nil
}

func (c *Cluster) unavailable(err error) error {
	cause := c.contact.cause(err, c.cfg.AdminTimeout)
	if answer, ok := errors.AsType[*AnswerError](cause); ok {
		return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q gives answers that cannot be read: %s", c.Name, forOperators(answer.Error())).WithCause(err)
	}
	switch refused := c.whyRefused(cause); {
	case refused == nil:
	case refused.Certain:
		c.refused(refused.Why, err)
		return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q cannot be used: %s", c.Name, forOperators(refused.Why)).WithCause(refused)
	default:
		return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q does not answer: %s", c.Name, forOperators(refused.Why)).WithCause(refused)
	}
	return federation.Errorf(federation.ClusterUnavailable, "physical cluster %q does not answer; it is tried again when it is back", c.Name).WithCause(err)
}

// forOperators is not said to tenants: it names hosts, certificates, users and requests.
func forOperators(why string) federation.Text {
	return federation.Text{Whole: why, Public: "the operators of the deployment see why"}
}

// Info asks for the cluster's id and brokers.
func (c *Cluster) Info(ctx context.Context) (ClusterInfo, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := request[*kmsg.MetadataResponse](ctx, c, req)
	if err != nil {
		return ClusterInfo{}, err
	}
	c.meta.setBrokers(resp.Brokers)
	info := ClusterInfo{Controller: resp.ControllerID}
	if resp.ClusterID != nil {
		info.ClusterID = *resp.ClusterID
	}
	for _, b := range resp.Brokers {
		bi := BrokerInfo{ID: b.NodeID, Host: b.Host, Port: b.Port}
		if b.Rack != nil {
			bi.Rack = *b.Rack
		}
		info.Brokers = append(info.Brokers, bi)
	}
	return info, nil
}

// Topics describes topics; missing ones are absent from the answer. Without
// names it describes all topics that are not internal.
func (c *Cluster) Topics(ctx context.Context, names ...string) (map[string]TopicInfo, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &n
		req.Topics = append(req.Topics, t)
	}
	resp, err := request[*kmsg.MetadataResponse](ctx, c, req)
	if err != nil {
		return nil, err
	}
	c.meta.apply(resp)
	all := make(map[string]TopicInfo, len(resp.Topics))
	for _, t := range resp.Topics {
		if t.Topic == nil || t.ErrorCode != 0 || len(names) == 0 && t.IsInternal {
			continue
		}
		info := TopicInfo{Partitions: make([]PartitionInfo, len(t.Partitions))}
		for _, p := range t.Partitions {
			if p.Partition < 0 || int(p.Partition) >= len(info.Partitions) {
				return nil, federation.Errorf(federation.ClusterUnavailable, "physical cluster %q describes partition %d of %d", c.Name, p.Partition, len(t.Partitions))
			}
			leader := p.Leader
			if p.ErrorCode == kerr.LeaderNotAvailable.Code {
				leader = -1
			}
			info.Partitions[p.Partition] = PartitionInfo{Leader: leader, Epoch: federation.PhysicalEpoch(p.LeaderEpoch), Replicas: p.Replicas, ISR: p.ISR}
		}
		all[*t.Topic] = info
	}
	return all, nil
}

// CreateTopic creates a topic; one that exists already with the same number of
// partitions is fine. A replicationFactor of -1 is the cluster's default.
func (c *Cluster) CreateTopic(ctx context.Context, name string, partitions int32, replicationFactor int16, config map[string]string, validateOnly bool) error {
	resp, err := c.createTopic(ctx, name, partitions, replicationFactor, config, validateOnly)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		if rt.ErrorCode == kerr.TopicAlreadyExists.Code && !validateOnly {
			return c.sameTopic(ctx, name, partitions)
		}
		if err := c.topicError(name, rt.ErrorCode, rt.ErrorMessage, "create a topic"); err != nil {
			return err
		}
	}
	return nil
}

// PlannedConfig returns the configuration that a topic would have if it were
// created (KIP-525), without sensitive values; empty if the brokers do not tell.
// Nothing is created.
func (c *Cluster) PlannedConfig(ctx context.Context, name string, partitions int32, replicationFactor int16, config map[string]string) (map[string]string, error) {
	resp, err := c.createTopic(ctx, name, partitions, replicationFactor, config, true)
	if err != nil {
		return nil, err
	}
	planned := make(map[string]string)
	for _, rt := range resp.Topics {
		if rt.ErrorCode == kerr.TopicAlreadyExists.Code { // created meanwhile: it has what it has
			values, err := c.TopicConfig(ctx, name)
			for k, v := range values {
				if !v.Sensitive {
					planned[k] = v.Value
				}
			}
			return planned, err
		}
		if err := c.topicError(name, rt.ErrorCode, rt.ErrorMessage, "create a topic"); err != nil {
			return nil, err
		}
		for _, cf := range rt.Configs {
			if cf.Value != nil && !cf.IsSensitive {
				planned[cf.Name] = *cf.Value
			}
		}
	}
	return planned, nil
}

func (c *Cluster) createTopic(ctx context.Context, name string, partitions int32, replicationFactor int16, config map[string]string, validateOnly bool) (*kmsg.CreateTopicsResponse, error) {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, replicationFactor
	for k, v := range config {
		t.Configs = append(t.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: k, Value: &v})
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, t)
	req.TimeoutMillis = int32(c.cfg.AdminTimeout.Milliseconds())
	req.ValidateOnly = validateOnly
	return request[*kmsg.CreateTopicsResponse](ctx, c, req)
}

func (c *Cluster) sameTopic(ctx context.Context, name string, partitions int32) error {
	topics, err := c.Topics(ctx, name)
	if err != nil {
		return err
	}
	if have := len(topics[name].Partitions); have != int(partitions) {
		return federation.Errorf(federation.TopicExists, "physical cluster %q has the topic already, with %d partitions instead of %d", c.Name, have, partitions)
	}
	return nil
}

// CreatePartitions makes a topic have total partitions; fine if it has them already.
func (c *Cluster) CreatePartitions(ctx context.Context, name string, total int32) error {
	topics, err := c.Topics(ctx, name)
	if err != nil {
		return err
	}
	if len(topics[name].Partitions) >= int(total) {
		return nil
	}
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = name, total
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.Topics = append(req.Topics, t)
	req.TimeoutMillis = int32(c.cfg.AdminTimeout.Milliseconds())
	resp, err := request[*kmsg.CreatePartitionsResponse](ctx, c, req)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		if err := c.topicError(name, rt.ErrorCode, rt.ErrorMessage, "add partitions"); err != nil {
			return err
		}
	}
	return nil
}

// DeleteTopic deletes a topic; fine if it does not exist.
func (c *Cluster) DeleteTopic(ctx context.Context, name string) error {
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.Topic = &name
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{name}
	req.Topics = append(req.Topics, t)
	req.TimeoutMillis = int32(c.cfg.AdminTimeout.Milliseconds())
	resp, err := request[*kmsg.DeleteTopicsResponse](ctx, c, req)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		if rt.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			continue
		}
		if err := c.topicError(name, rt.ErrorCode, rt.ErrorMessage, "delete a topic"); err != nil {
			return err
		}
	}
	c.meta.forget(name)
	return nil
}

// TopicConfig returns the configuration of a topic, defaults included.
func (c *Cluster) TopicConfig(ctx context.Context, name string) (map[string]ConfigValue, error) {
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Resources = append(req.Resources, r)
	resp, err := request[*kmsg.DescribeConfigsResponse](ctx, c, req)
	if err != nil {
		return nil, err
	}
	values := make(map[string]ConfigValue)
	for _, rr := range resp.Resources {
		if err := c.topicError(name, rr.ErrorCode, rr.ErrorMessage, "describe a topic's configuration"); err != nil {
			return nil, err
		}
		for _, cf := range rr.Configs {
			v := ConfigValue{Sensitive: cf.IsSensitive, ReadOnly: cf.ReadOnly, Default: cf.Source != kmsg.ConfigSourceDynamicTopicConfig}
			if cf.Value != nil {
				v.Value = *cf.Value
			}
			values[cf.Name] = v
		}
	}
	return values, nil
}

// SetTopicConfig sets and unsets configuration values of a topic.
func (c *Cluster) SetTopicConfig(ctx context.Context, name string, set map[string]string, unset []string, validateOnly bool) error {
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
	for k, v := range set {
		r.Configs = append(r.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: k, Op: kmsg.IncrementalAlterConfigOpSet, Value: &v})
	}
	for _, k := range unset {
		r.Configs = append(r.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: k, Op: kmsg.IncrementalAlterConfigOpDelete})
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, r)
	req.ValidateOnly = validateOnly
	resp, err := request[*kmsg.IncrementalAlterConfigsResponse](ctx, c, req)
	if err != nil {
		return err
	}
	for _, rr := range resp.Resources {
		if err := c.topicError(name, rr.ErrorCode, rr.ErrorMessage, "change a topic's configuration"); err != nil {
			return err
		}
	}
	return nil
}

// topicError turns a broker's error code into an error that a client may see.
// The broker's own text is kept for those kinds where it explains the client's
// mistake and cannot name anything physical but the topic.
func (c *Cluster) topicError(name string, code int16, message *string, what string) error {
	if code == 0 {
		return nil
	}
	cause := kerr.ErrorForCode(code)
	detail := ""
	if message != nil {
		detail = ": " + *message
	}
	kind := federation.ClusterUnavailable
	switch {
	case errors.Is(cause, kerr.InvalidReplicationFactor):
		kind = federation.InvalidReplicationFactor
	case errors.Is(cause, kerr.InvalidPartitions):
		kind = federation.InvalidPartitionCount
	case errors.Is(cause, kerr.InvalidConfig):
		kind = federation.InvalidConfig
	case errors.Is(cause, kerr.InvalidRequest):
		kind = federation.InvalidArgument
	case errors.Is(cause, kerr.PolicyViolation):
		kind = federation.PolicyViolation
	case errors.Is(cause, kerr.UnknownTopicOrPartition):
		kind = federation.UnknownTopic
	case errors.Is(cause, kerr.TopicAuthorizationFailed), errors.Is(cause, kerr.ClusterAuthorizationFailed):
		kind = federation.ClusterUnavailable
	default:
		detail = ""
	}
	told := federation.Text{Whole: detail, Public: strings.ReplaceAll(detail, name, "it")}
	if detail == "" {
		return federation.Errorf(kind, "physical cluster %q refused to %s", c.Name, what).WithCause(cause)
	}
	return federation.Errorf(kind, "physical cluster %q refused to %s%s", c.Name, what, told).WithCause(fmt.Errorf("%w%s", cause, detail))
}
