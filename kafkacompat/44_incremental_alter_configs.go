package kafkacompat

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// IncrementalAlterConfigs: v0-v1 (KIP-339)
//
// Topics and groups; of a node, taking settings away that were never set. APPEND and SUBTRACT read the list, change it and write it back.
//
// Version notes:
// * v1: flexible

type resourceKey struct {
	kind kmsg.ConfigResourceType
	name string
}

func handleIncrementalAlterConfigs(ctx context.Context, c *conn, req *request, kreq *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
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
		rr := kmsg.NewIncrementalAlterConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
		if count[key] > 1 {
			rr.ErrorCode, rr.ErrorMessage = req.refuse(kerr.InvalidRequest), new("the resource is in the request more than once")
			count[key] = -1
		} else if rr.ErrorCode = req.mayConfig(ctx, acl.AlterConfigs, r.ResourceType, r.ResourceName); rr.ErrorCode != 0 {
			rr.ErrorMessage = deniedMessage(rr.ErrorCode)
		} else if r.ResourceType == kmsg.ConfigResourceTypeBroker && unsetsOnly(r.Configs) {
			rr.ErrorCode = 0 // nothing was set: kafka-reassign-partitions clears throttles in any case
		} else if rr.ErrorCode, rr.ErrorMessage = alterable(req, r.ResourceType); rr.ErrorCode == 0 {
			err := c.alterResource(ctx, req, r, kreq.ValidateOnly)
			rr.ErrorCode, rr.ErrorMessage = req.fail(err), message(err)
		}
		resp.Resources = append(resp.Resources, rr)
	}
	return resp
}

// alterResource changes the configs of a topic or a group.
func (c *conn) alterResource(ctx context.Context, req *request, r *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) error {
	if r.ResourceType == kmsg.ConfigResourceTypeGroupConfig {
		change, err := groupChange(r)
		if err != nil {
			return err
		}
		return c.alterGroup(ctx, req, change, validateOnly)
	}
	err := c.alterTopic(ctx, r, validateOnly)
	if !validateOnly {
		req.changed(ctx, acl.AlterConfigs, acl.Topic, r.ResourceName, err)
	}
	return err
}

func unsetsOnly(configs []kmsg.IncrementalAlterConfigsRequestResourceConfig) bool {
	for i := range configs {
		if configs[i].Op != kmsg.IncrementalAlterConfigOpDelete {
			return false
		}
	}
	return len(configs) > 0
}

func (c *conn) alterTopic(ctx context.Context, r *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) error {
	name := federation.TopicName(r.ResourceName)
	set := make(map[string]string)
	var unset []string
	var current map[string]ConfigValue
	seen := make(map[string]bool)
	for _, cfg := range r.Configs {
		if seen[cfg.Name] {
			return federation.Errorf(federation.InvalidArgument, "topic %q: config %q is given more than once", name, cfg.Name)
		}
		seen[cfg.Name] = true
		if cfg.Op == kmsg.IncrementalAlterConfigOpDelete {
			unset = append(unset, cfg.Name)
			continue
		}
		if cfg.Value == nil {
			return federation.Errorf(federation.InvalidArgument, "topic %q: config %q: null is not a value", name, cfg.Name)
		}
		switch cfg.Op {
		case kmsg.IncrementalAlterConfigOpSet:
			set[cfg.Name] = *cfg.Value
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			if !listConfig(cfg.Name) {
				return federation.Errorf(federation.InvalidConfig, "topic %q: config %q is no list: append and subtract do not apply", name, cfg.Name)
			}
			if current == nil {
				var err error
				if current, err = c.s.deps.Admin.TopicConfig(ctx, name); err != nil {
					return err
				}
			}
			set[cfg.Name] = changeList(listValue(current, cfg.Name), *cfg.Value, cfg.Op == kmsg.IncrementalAlterConfigOpAppend)
		default:
			return federation.Errorf(federation.InvalidArgument, "topic %q: config %q: operation %d is not known", name, cfg.Name, cfg.Op)
		}
	}
	return c.s.setTopicConfig(ctx, name, set, unset, validateOnly)
}

// setTopicConfig sets configs and waits for this gateway's map to have them, so
// that the client reads what it wrote.
func (s *Server) setTopicConfig(ctx context.Context, name federation.TopicName, set map[string]string, unset []string, validateOnly bool) error {
	if err := s.deps.Admin.SetTopicConfig(ctx, name, set, unset, validateOnly); err != nil || validateOnly {
		return err
	}
	s.awaitMap(ctx, s.cfg.TopicWait, func(m *federation.Map) bool {
		t := m.Topics[name]
		if t == nil {
			return true
		}
		for k, v := range set {
			if t.Config[k] != v {
				return false
			}
		}
		for _, k := range unset {
			if _, still := t.Config[k]; still {
				return false
			}
		}
		return true
	})
	return nil
}

// listValue is the value of a list that APPEND and SUBTRACT start from.
func listValue(current map[string]ConfigValue, name string) string {
	if v, ok := current[name]; ok {
		return v.Value
	}
	k, _ := topicConfig(name)
	return k.value
}

func changeList(list, change string, add bool) string {
	items := splitList(list)
	for _, item := range splitList(change) {
		i := slices.Index(items, item)
		switch {
		case add && i < 0:
			items = append(items, item)
		case !add && i >= 0:
			items = slices.Delete(items, i, i+1)
		}
	}
	return strings.Join(items, ",")
}

func splitList(s string) []string {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
