package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func groupCommand() *cobra.Command {
	return parent("group", "Consumer groups, of Kafka and Connect members alike",
		groupListCommand(), groupDescribeCommand(), groupResetCommand(), groupDeleteCommand())
}

func groupListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the groups", Args: cobra.NoArgs}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListGroupsResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.groups.ListGroups, &adminv1.ListGroupsRequest{Parent: logicalName(*logical), PageToken: token})
			all.Groups = append(all.Groups, resp.GetGroups()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) {
			r.row("GROUP", "TYPE", "STATE", "COORDINATOR")
			for _, g := range all.GetGroups() {
				r.row(short(g.GetName()), g.GetType(), g.GetState(), g.GetCoordinator())
			}
		})
	})
	return cmd
}

func groupDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "describe NAME", Short: "Show a group: members, what they read, and lag", Args: cobra.ExactArgs(1)}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.groups.GetGroup, &adminv1.GetGroupRequest{Name: groupName(*logical, args[0])})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp.GetGroup(), func(r *rows) { groupRows(r, resp.GetGroup()) })
	})
	return cmd
}

func groupRows(r *rows, g *adminv1.Group) {
	r.row("Group:", short(g.GetName()))
	r.row("Type:", g.GetType())
	r.row("State:", g.GetState())
	r.row("Epoch:", g.GetEpoch())
	r.row("Coordinator:", g.GetCoordinator())
	if len(g.GetMembers()) > 0 {
		_, _ = fmt.Fprintln(r.w)
		r.row("MEMBER", "CLIENT", "PROTOCOL", "HOST", "PARTITIONS")
		for _, m := range g.GetMembers() {
			r.row(m.GetMemberId(), m.GetClientId(), m.GetProtocol(), m.GetHost(), strings.Join(m.GetPartitions(), " "))
		}
	}
	if len(g.GetLag()) > 0 {
		_, _ = fmt.Fprintln(r.w)
		lagRows(r, g.GetLag())
	}
}

func lagRows(r *rows, lag []*adminv1.Group_PartitionLag) {
	r.row("TOPIC", "PARTITION", "COMMITTED", "END", "LAG")
	for _, l := range lag {
		committed, behind := strconv.FormatInt(l.GetCommitted(), 10), strconv.FormatInt(l.GetLag(), 10)
		if l.GetCommitted() < 0 {
			committed, behind = "-", "-"
		}
		r.row(l.GetTopic(), l.GetPartition(), committed, l.GetHighWatermark(), behind)
	}
}

func groupResetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset NAME --to earliest|latest|TIME|+N|-N",
		Short: "Move the committed offsets of a group without members",
		Example: "  braid group reset billing --to earliest\n" +
			"  braid group reset billing --to 2026-01-31T12:00:00Z --topic orders\n" +
			"  braid group reset billing --to -100 --dry-run",
		Args: cobra.ExactArgs(1),
	}
	outputFlag(cmd)
	to := cmd.Flags().String("to", "", "earliest, latest, a time (RFC 3339, a date, or milliseconds since 1970 as @MS), or a shift +N or -N")
	topics := cmd.Flags().StringSlice("topic", nil, "only these topics; all with a committed offset by default")
	dryRun := cmd.Flags().Bool("dry-run", false, "show what would change")
	logical := logicalFlag(cmd)
	_ = cmd.MarkFlagRequired("to")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		req := &adminv1.ResetOffsetsRequest{Name: groupName(*logical, args[0]), Topics: *topics, ValidateOnly: *dryRun}
		if err := parseReset(*to, req); err != nil {
			return err
		}
		resp, err := call(cmd.Context(), a, a.groups.ResetOffsets, req)
		if err != nil {
			return err
		}
		return printMessage(cmd, resp, func(r *rows) { resetRows(r, resp) })
	})
	return cmd
}

func parseReset(to string, req *adminv1.ResetOffsetsRequest) error {
	switch {
	case to == "earliest":
		req.To = &adminv1.ResetOffsetsRequest_Earliest{Earliest: true}
		return nil
	case to == "latest":
		req.To = &adminv1.ResetOffsetsRequest_Latest{Latest: true}
		return nil
	case strings.HasPrefix(to, "+"), strings.HasPrefix(to, "-"):
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil {
			return usagef("--to %q: want a number after the sign", to)
		}
		req.To = &adminv1.ResetOffsetsRequest_ShiftBy{ShiftBy: n}
		return nil
	}
	t, ok := parseTime(to)
	if !ok {
		return usagef("--to %q: want earliest, latest, a time such as 2026-01-31T12:00:00Z, +N or -N", to)
	}
	req.To = &adminv1.ResetOffsetsRequest_Time{Time: timestamppb.New(t)}
	return nil
}

// parseTime reads a point in time: RFC 3339, a local date with or without time,
// or @MILLISECONDS since 1970.
func parseTime(s string) (time.Time, bool) {
	if ms, ok := strings.CutPrefix(s, "@"); ok {
		n, err := strconv.ParseInt(ms, 10, 64)
		return time.UnixMilli(n), err == nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, true
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func resetRows(r *rows, resp *adminv1.ResetOffsetsResponse) {
	before := make(map[string]int64)
	for _, l := range resp.GetBefore() {
		before[fmt.Sprint(l.GetTopic(), "/", l.GetPartition())] = l.GetCommitted()
	}
	r.row("TOPIC", "PARTITION", "BEFORE", "AFTER", "END", "LAG")
	for _, l := range resp.GetAfter() {
		was := "-"
		if b, ok := before[fmt.Sprint(l.GetTopic(), "/", l.GetPartition())]; ok && b >= 0 {
			was = strconv.FormatInt(b, 10)
		}
		r.row(l.GetTopic(), l.GetPartition(), was, l.GetCommitted(), l.GetHighWatermark(), l.GetLag())
	}
}

func groupDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a group without members, with its offsets", Args: cobra.ExactArgs(1)}
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		if _, err := call(cmd.Context(), a, a.groups.DeleteGroup, &adminv1.DeleteGroupRequest{Name: groupName(*logical, args[0])}); err != nil {
			return err
		}
		cmd.PrintErrf("group %s deleted\n", args[0])
		return nil
	})
	return cmd
}
