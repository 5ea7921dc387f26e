package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func topicCommand() *cobra.Command {
	return parent("topic", "Logical topics",
		topicCreateCommand(), topicListCommand(), topicDescribeCommand(), topicConfigCommand(), topicGrowCommand(), topicExpandCommand(), topicMoveCommand(), topicAdoptCommand(), topicDeleteCommand())
}

// logicalFlag gives a command the logical cluster that it works on.
func logicalFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("logical-cluster", "default", "logical cluster of topics and groups")
}

func logicalName(logical string) string      { return "logicalClusters/" + logical }
func topicName(logical, topic string) string { return logicalName(logical) + "/topics/" + topic }
func groupName(logical, group string) string { return logicalName(logical) + "/groups/" + group }
func operationName(id string) string         { return "operations/" + strings.TrimPrefix(id, "operations/") }

func noWaitFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("no-wait", false, "do not wait for the operation; print its id")
}

func topicCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "create NAME --partitions N",
		Short:   "Create a topic on physical clusters",
		Example: "  braid topic create orders --partitions 12 --config retention.ms=86400000",
		Args:    cobra.ExactArgs(1),
	}
	partitions := cmd.Flags().Int32("partitions", 0, "number of partitions")
	clusters := cmd.Flags().StringSlice("clusters", nil, "physical clusters that may hold it; all active ones by default")
	replication := cmd.Flags().Int32("replication", 0, "replicas of each partition; 0 = as the physical clusters have it")
	// Here --config is the topic's, and BRAID_CONFIG alone names the settings file.
	configs := cmd.Flags().StringArray("config", nil, "topic config KEY=VALUE; can be repeated")
	logical, noWait := logicalFlag(cmd), noWaitFlag(cmd)
	_ = cmd.MarkFlagRequired("partitions")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		config, unset, err := parseConfigs(*configs)
		if err != nil {
			return err
		}
		if len(unset) > 0 {
			return usagef("--config %s: want KEY=VALUE", unset[0])
		}
		topic := &adminv1.Topic{PartitionCount: *partitions, ReplicationFactor: *replication, Config: config}
		if len(*clusters) > 0 {
			topic.Placement = &adminv1.PlacementPolicy{PhysicalClusters: *clusters}
		}
		resp, err := call(cmd.Context(), a, a.topics.CreateTopic, &adminv1.CreateTopicRequest{Parent: logicalName(*logical), TopicId: args[0], Topic: topic, NoWait: true})
		if err != nil {
			return err
		}
		return a.finish(cmd, resp.GetOperation(), *noWait, fmt.Sprintf("topic %s created with %s", args[0], plural(int64(*partitions), "partition")))
	})
	return cmd
}

// parseConfigs reads k=v; a key alone, or followed by a minus sign, is one to unset.
func parseConfigs(args []string) (set map[string]string, unset []string, err error) {
	set = make(map[string]string)
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		switch {
		case k == "" || k == "-":
			return nil, nil, usagef("config %q: want KEY=VALUE", a)
		case ok:
			set[k] = v
		default:
			unset = append(unset, strings.TrimSuffix(k, "-"))
		}
	}
	return set, unset, nil
}

func topicListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the topics", Args: cobra.NoArgs}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListTopicsResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.topics.ListTopics, &adminv1.ListTopicsRequest{Parent: logicalName(*logical), PageToken: token})
			all.Topics = append(all.Topics, resp.GetTopics()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) {
			r.row("NAME", "PARTITIONS", "CLUSTERS", "CONFIG")
			for _, t := range all.GetTopics() {
				r.row(short(t.GetName()), t.GetPartitionCount(), placement(t), configText(t.GetConfig()))
			}
		})
	})
	return cmd
}

func placement(t *adminv1.Topic) string {
	if c := t.GetPlacement().GetPhysicalClusters(); len(c) > 0 {
		return strings.Join(c, ",")
	}
	return "all"
}

func configText(config map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(config)) {
		all = append(all, k+"="+config[k])
	}
	return strings.Join(all, ",")
}

func topicDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "describe NAME", Short: "Show one topic with the extents of its partitions", Args: cobra.ExactArgs(1)}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		name := topicName(*logical, args[0])
		got, err := call(cmd.Context(), a, a.topics.GetTopic, &adminv1.GetTopicRequest{Name: name})
		if err != nil {
			return err
		}
		untold := false
		extents, err := call(cmd.Context(), a, func(ctx context.Context, r *adminv1.ListExtentsRequest) (*adminv1.ListExtentsResponse, error) {
			resp, err := a.topics.ListExtents(ctx, r)
			if connect.CodeOf(err) == connect.CodePermissionDenied {
				untold = true // to a user of a tenant: where its data lies
				return &adminv1.ListExtentsResponse{}, nil
			}
			return resp, err
		}, &adminv1.ListExtentsRequest{Parent: name})
		if err != nil {
			return err
		}
		if untold {
			return printMessage(cmd, got.GetTopic(), func(r *rows) { topicRows(r, got.GetTopic()) })
		}
		marshal := func() ([]byte, error) { return topicJSON(got.GetTopic(), extents) }
		return printJSON(cmd, marshal, func(r *rows) {
			topicRows(r, got.GetTopic())
			extentRows(r, extents.GetPartitions())
		})
	})
	return cmd
}

// topicJSON is the Topic message with the partitions of ListExtentsResponse in it.
func topicJSON(topic *adminv1.Topic, extents *adminv1.ListExtentsResponse) ([]byte, error) {
	t, err := toJSON(topic)
	if err != nil {
		return nil, err
	}
	p, err := toJSON(extents)
	if err != nil {
		return nil, err
	}
	t = append(t[:len(t)-1:len(t)-1], ',')
	return indent(append(t, p[1:]...))
}

func topicRows(r *rows, t *adminv1.Topic) {
	r.row("Name:", short(t.GetName()))
	r.row("Topic id:", t.GetUid())
	r.row("Partitions:", t.GetPartitionCount())
	if t.GetReplicationFactor() > 0 {
		r.row("Replication:", t.GetReplicationFactor())
	}
	r.row("Clusters:", placement(t))
	r.row("Config:", configText(t.GetConfig()))
	if c := t.GetCreateTime(); c != nil {
		r.row("Created:", c.AsTime().Format(time.RFC3339))
	}
	r.row("Map version:", t.GetMapVersion())
}

func extentRows(r *rows, partitions []*adminv1.Partition) {
	_, _ = fmt.Fprintln(r.w)
	r.row("PARTITION", "EPOCH", "EXTENT", "STATE", "CLUSTER", "PHYSICAL TOPIC", "PHYSICAL PARTITION", "BASE", "START", "END")
	for _, p := range partitions {
		for i, e := range p.GetExtents() {
			end := "-"
			if e.SealedEnd != nil {
				end = strconv.FormatInt(e.GetSealedEnd(), 10)
			}
			state := strings.ToLower(strings.TrimPrefix(e.GetState().String(), "STATE_"))
			r.row(p.GetPartition(), p.GetEpoch(), i, state, e.GetPhysicalCluster(), e.GetPhysicalTopic(), e.GetPhysicalPartition(), e.GetLogicalBase(), e.GetPhysicalStart(), end)
		}
	}
}

func topicConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config NAME [KEY=VALUE ...] [KEY- ...]",
		Short: "Show a topic's config, or set and unset parts of it",
		Example: "  braid topic config orders\n" +
			"  braid topic config orders retention.ms=86400000 max.message.bytes-\n" +
			"  braid topic config orders braid.failover.read=wait",
		Args: cobra.MinimumNArgs(1),
	}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		name := topicName(*logical, args[0])
		if len(args) == 1 {
			got, err := call(cmd.Context(), a, a.topics.GetTopic, &adminv1.GetTopicRequest{Name: name})
			if err != nil {
				return err
			}
			return printConfig(cmd, got.GetTopic())
		}
		set, unset, err := parseConfigs(args[1:])
		if err != nil {
			return err
		}
		for _, a := range args[1:] {
			if !strings.Contains(a, "=") && !strings.HasSuffix(a, "-") {
				return usagef("config %q: want KEY=VALUE to set it or KEY- to unset it", a)
			}
		}
		mask := &fieldmaskpb.FieldMask{}
		for _, k := range slices.Sorted(maps.Keys(set)) {
			mask.Paths = append(mask.Paths, "config."+k)
		}
		for _, k := range unset {
			mask.Paths = append(mask.Paths, "config."+k)
		}
		resp, err := call(cmd.Context(), a, a.topics.UpdateTopic, &adminv1.UpdateTopicRequest{Topic: &adminv1.Topic{Name: name, Config: set}, UpdateMask: mask})
		if err != nil {
			return err
		}
		return printConfig(cmd, resp.GetTopic())
	})
	return cmd
}

func printConfig(cmd *cobra.Command, t *adminv1.Topic) error {
	config := t.GetConfig()
	if config == nil {
		config = map[string]string{}
	}
	return printJSON(cmd, func() ([]byte, error) { return json.MarshalIndent(config, "", "  ") }, func(r *rows) {
		r.row("KEY", "VALUE")
		for _, k := range slices.Sorted(maps.Keys(config)) {
			r.row(k, config[k])
		}
	})
}

func topicGrowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grow NAME --partitions N",
		Short: "Give a topic more partitions; keys map to other partitions from then on",
		Args:  cobra.ExactArgs(1),
	}
	partitions := cmd.Flags().Int32("partitions", 0, "number of partitions")
	logical, noWait := logicalFlag(cmd), noWaitFlag(cmd)
	_ = cmd.MarkFlagRequired("partitions")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.topics.GrowTopic, &adminv1.GrowTopicRequest{Name: topicName(*logical, args[0]), PartitionCount: *partitions, NoWait: true})
		if err != nil {
			return err
		}
		return a.finish(cmd, resp.GetOperation(), *noWait, fmt.Sprintf("topic %s has %s", args[0], plural(int64(*partitions), "partition")))
	})
	return cmd
}

func topicExpandCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "expand NAME [--to CLUSTER,...]",
		Short: "Spread a topic's partitions over more physical clusters, while clients go on",
		Long: "Spread the heads of a topic's partitions over physical clusters by weight, while clients go on.\n" +
			"No partition is added: keys keep their partitions and their order. What was written before is read where it lies.",
		Example: "  braid topic expand orders\n" +
			"  braid topic expand orders --to c,d --validate-only",
		Args: cobra.ExactArgs(1),
	}
	to := cmd.Flags().StringSlice("to", nil, "physical clusters that the topic may use from now on, too; all active ones by default")
	logical, noWait, validate := logicalFlag(cmd), noWaitFlag(cmd), validateFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.topics.ExpandTopic, &adminv1.ExpandTopicRequest{
			Name: topicName(*logical, args[0]), PhysicalClusters: *to, ValidateOnly: *validate, NoWait: true,
		})
		if err != nil {
			return err
		}
		return a.finishMoves(cmd, resp.GetOperation(), resp.GetMoves(), *noWait, *validate)
	})
	return cmd
}

func topicMoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "move NAME --partitions N,... --to CLUSTER",
		Short:   "Move some partitions of a topic to a physical cluster, while clients go on",
		Example: "  braid topic move orders --partitions 0,3 --to c",
		Args:    cobra.ExactArgs(1),
	}
	partitions := cmd.Flags().Int32Slice("partitions", nil, "partitions to move")
	to := cmd.Flags().String("to", "", "physical cluster")
	_, _ = cmd.MarkFlagRequired("partitions"), cmd.MarkFlagRequired("to")
	logical, noWait, validate := logicalFlag(cmd), noWaitFlag(cmd), validateFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.topics.MovePartitions, &adminv1.MovePartitionsRequest{
			Name: topicName(*logical, args[0]), Partitions: *partitions, PhysicalCluster: *to, ValidateOnly: *validate, NoWait: true,
		})
		if err != nil {
			return err
		}
		return a.finishMoves(cmd, resp.GetOperation(), resp.GetMoves(), *noWait, *validate)
	})
	return cmd
}

func topicAdoptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt NAME --cluster CLUSTER [--groups]",
		Short: "Make an existing topic of a physical cluster a logical topic, with the same offsets",
		Long: "Make an existing topic of a physical cluster a logical topic. Nothing is copied; partitions and offsets stay the same.\n" +
			"With --groups the committed offsets of the cluster's groups are imported; an offset never goes back. Repeat it when the last\n" +
			"consumer has stopped, to import what was committed since.",
		Example: "  braid topic adopt orders --cluster a --groups",
		Args:    cobra.ExactArgs(1),
	}
	cluster := cmd.Flags().String("cluster", "", "physical cluster that has the topic")
	physical := cmd.Flags().String("physical-topic", "", "its name there; the same by default")
	groups := cmd.Flags().Bool("groups", false, "import the committed offsets of the groups that read it")
	_ = cmd.MarkFlagRequired("cluster")
	logical, noWait := logicalFlag(cmd), noWaitFlag(cmd)
	validate := cmd.Flags().Bool("validate-only", false, "change nothing; say what would be adopted, or why not")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.topics.AdoptTopic, &adminv1.AdoptTopicRequest{
			Parent: logicalName(*logical), TopicId: args[0], PhysicalCluster: *cluster, PhysicalTopic: *physical, Groups: *groups, ValidateOnly: *validate, NoWait: true,
		})
		if err != nil {
			return err
		}
		if *validate {
			cmd.PrintErrf("topic %s would be adopted with %s\n", args[0], plural(int64(resp.GetTopic().GetPartitionCount()), "partition"))
			for _, g := range resp.GetGroups() {
				cmd.Printf("group %s\n", g)
			}
			return nil
		}
		return a.finish(cmd, resp.GetOperation(), *noWait, "topic "+args[0]+" adopted")
	})
	return cmd
}

func validateFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("validate-only", false, "change nothing; print what would move, or what does not fit")
}

// movesShown bounds the moves that a command lists one by one.
const movesShown = 20

// finishMoves ends a command that moves heads.
func (a *api) finishMoves(cmd *cobra.Command, operation string, moves []*adminv1.HeadMove, noWait, validate bool) error {
	what := plural(int64(len(moves)), "partition")
	if validate {
		for i, m := range moves {
			if i == movesShown {
				cmd.Printf("… and %d more\n", len(moves)-movesShown)
				break
			}
			cmd.Printf("%s-%d: %s -> %s\n", m.GetTopic(), m.GetPartition(), m.GetFromPhysicalCluster(), m.GetToPhysicalCluster())
		}
		cmd.PrintErrf("%s would move\n", what)
		return nil
	}
	return a.finish(cmd, operation, noWait, what+" moved")
}

func topicDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a topic and its data", Args: cobra.ExactArgs(1)}
	logical, noWait := logicalFlag(cmd), noWaitFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.topics.DeleteTopic, &adminv1.DeleteTopicRequest{Name: topicName(*logical, args[0])})
		if err != nil {
			return err
		}
		return a.finish(cmd, resp.GetOperation(), *noWait, fmt.Sprintf("topic %s deleted", args[0]))
	})
	return cmd
}
