package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// AlterConfigs: v0-v2
//
// Topics and groups. Replaces all that was set, as in Kafka; IncrementalAlterConfigs
// changes single configs.
//
// Version notes:
// * v2: flexible

func handleAlterConfigs(ctx context.Context, c *conn, req *request, kreq *kmsg.AlterConfigsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.AlterConfigsResponse)
	count := make(map[resourceKey]int)
	for _, r := range kreq.Resources {
		count[resourceKey{r.ResourceType, r.ResourceName}]++
	}
	for i := range kreq.Resources {
		r := &kreq.Resources[i]
		key := resourceKey{r.ResourceType, r.ResourceName}
		if count[key] < 0 {
			continue // a duplicate, answered already
		}
		rr := kmsg.NewAlterConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		if count[key] > 1 {
			rr.ErrorCode, rr.ErrorMessage = req.refuse(kerr.InvalidRequest), new("the resource is in the request more than once")
			count[key] = -1
		} else if rr.ErrorCode = req.mayConfig(ctx, acl.AlterConfigs, r.ResourceType, r.ResourceName); rr.ErrorCode != 0 {
			rr.ErrorMessage = deniedMessage(rr.ErrorCode)
		} else if rr.ErrorCode, rr.ErrorMessage = alterable(req, r.ResourceType); rr.ErrorCode == 0 {
			err := c.replaceConfig(ctx, req, r, kreq.ValidateOnly)
			rr.ErrorCode, rr.ErrorMessage = req.fail(err), message(err)
		}
		resp.Resources = append(resp.Resources, rr)
	}
	return resp
}

// replaceConfig replaces the configs of a topic or a group.
func (c *conn) replaceConfig(ctx context.Context, req *request, r *kmsg.AlterConfigsRequestResource, validateOnly bool) error {
	if r.ResourceType == kmsg.ConfigResourceTypeGroupConfig {
		change, err := c.s.groupReplacement(r)
		if err != nil {
			return err
		}
		return c.alterGroup(ctx, req, change, validateOnly)
	}
	err := c.replaceTopicConfig(ctx, r, validateOnly)
	if !validateOnly {
		req.changed(ctx, acl.AlterConfigs, acl.Topic, r.ResourceName, err)
	}
	return err
}

func (c *conn) replaceTopicConfig(ctx context.Context, r *kmsg.AlterConfigsRequestResource, validateOnly bool) error {
	name := federation.TopicName(r.ResourceName)
	set := make(map[string]string)
	for _, cfg := range r.Configs {
		if _, twice := set[cfg.Name]; twice {
			return federation.Errorf(federation.InvalidArgument, "topic %q: config %q is given more than once", name, cfg.Name)
		}
		if cfg.Value == nil {
			return federation.Errorf(federation.InvalidArgument, "topic %q: config %q: null is not a value", name, cfg.Name)
		}
		set[cfg.Name] = *cfg.Value
	}
	current, err := c.s.deps.Admin.TopicConfig(ctx, name)
	if err != nil {
		return err
	}
	var unset []string
	for k := range current {
		if _, kept := set[k]; !kept {
			unset = append(unset, k)
		}
	}
	return c.s.setTopicConfig(ctx, name, set, unset, validateOnly)
}
