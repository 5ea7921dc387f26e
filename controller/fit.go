package controller

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/upstream"
)

// alike are the settings of a topic that must be the same on all clusters that hold
// parts of it: else what its clients may write, or what is kept, would change with a
// move. max.message.bytes may be larger.
var alike = []string{
	"cleanup.policy", "compression.type", "message.timestamp.type", "message.timestamp.before.max.ms", "message.timestamp.after.max.ms",
	"min.insync.replicas", "retention.bytes", "retention.ms",
}

// checkFit compares what clusters would make of a topic with what those that hold
// its heads now make of it, and names all that differs. It changes nothing.
func (t *term) checkFit(ctx context.Context, plan planner.MovePlan, topic *federation.Topic) error {
	var sources []planner.PhysicalTopic
	for _, v := range plan.Moves {
		pt := planner.PhysicalTopic{Cluster: v.From.Cluster, Name: v.From.Topic, Exists: true}
		if !slices.Contains(sources, pt) {
			sources = append(sources, pt)
		}
	}
	have := make([]map[string]string, len(sources))
	err := t.each(ctx, sources, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) (err error) {
		have[slices.Index(sources, pt)], err = effectiveConfig(ctx, c, pt, topic)
		return err
	})
	if err != nil {
		return err
	}
	for i, config := range have {
		if err := checkCopies(topic, sources[i].Cluster, config); err != nil {
			return err
		}
	}
	return t.each(ctx, plan.Topics, func(ctx context.Context, pt planner.PhysicalTopic, c *upstream.Cluster) error {
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if int(topic.ReplicationFactor) > len(info.Brokers) {
			return misfit(topic, pt.Cluster, fmt.Sprintf("the topic has %d replicas of each partition, the cluster %d brokers", topic.ReplicationFactor, len(info.Brokers)))
		}
		would, err := effectiveConfig(ctx, c, pt, topic)
		if err != nil {
			return err
		}
		var differences []string
		for i, source := range sources {
			for _, d := range differing(have[i], would) {
				d += " as on " + string(source.Cluster)
				if !slices.Contains(differences, d) {
					differences = append(differences, d)
				}
			}
		}
		if len(differences) > 0 {
			return misfit(topic, pt.Cluster, strings.Join(differences, "; ")+"; `braid topic config` sets it on all clusters")
		}
		return nil
	})
}

func misfit(topic *federation.Topic, cluster federation.ClusterName, what string) error {
	return federation.Errorf(federation.PolicyViolation, "topic %q does not fit on physical cluster %q: %s", topic.Name, cluster, federation.Text{Whole: what, Public: "its operators see what differs"})
}

// effectiveConfig returns the settings that a physical topic has, or would have.
func effectiveConfig(ctx context.Context, c *upstream.Cluster, pt planner.PhysicalTopic, topic *federation.Topic) (map[string]string, error) {
	if !pt.Exists {
		return c.PlannedConfig(ctx, pt.Name, pt.Partitions, int16(topic.ReplicationFactor), physicalConfig(topic.Config))
	}
	values, err := c.TopicConfig(ctx, pt.Name)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(values))
	for k, v := range values {
		if !v.Sensitive {
			out[k] = v.Value
		}
	}
	return out, nil
}

// differing says in which settings a target differs from a source. What one of them
// does not tell is not compared.
func differing(source, target map[string]string) []string {
	var out []string
	say := func(key string) {
		out = append(out, fmt.Sprintf("%s would be %s, not %s", key, target[key], source[key]))
	}
	const size = "max.message.bytes"
	s, errS := strconv.ParseInt(source[size], 10, 64)
	t, errT := strconv.ParseInt(target[size], 10, 64)
	if errS == nil && errT == nil && t < s {
		say(size)
	}
	for _, key := range alike {
		s, okS := source[key]
		t, okT := target[key]
		if okS && okT && s != t {
			say(key)
		}
	}
	return out
}
