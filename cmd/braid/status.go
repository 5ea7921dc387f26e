package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show everything at a glance", GroupID: groupAdmin, Args: cobra.NoArgs}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		resp, err := call(cmd.Context(), a, a.fleet.GetStatus, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		return printMessage(cmd, resp, func(r *rows) { statusRows(r, resp) })
	})
	return cmd
}

func statusRows(r *rows, s *adminv1.GetStatusResponse) {
	r.row("Topics:", fmt.Sprintf("%d (%s, %s)", s.GetTopics(), plural(s.GetPartitions(), "partition"), plural(s.GetExtents(), "extent")))
	r.row("Groups:", s.GetGroups())
	r.row("Map version:", s.GetMapVersion())
	section := func(title string) {
		_ = r.w.Flush()
		_, _ = fmt.Fprintf(r.w, "\n%s\n", title)
	}
	section("Clusters")
	clusterRows(r, s.GetClusters())
	section("Gateways")
	gatewayRows(r, s.GetGateways())
	section("Controllers")
	r.row("ID", "URL", "STATE")
	for _, c := range s.GetControllers() {
		state := "standing by"
		if c.GetLeader() {
			state = fmt.Sprintf("leading (epoch %d)", c.GetEpoch())
		}
		r.row(c.GetId(), c.GetUrl(), state)
	}
	if len(s.GetRunningOperations()) > 0 {
		section("Running operations")
		operationRows(r, s.GetRunningOperations())
	}
	section("Alarms")
	if len(s.GetAlarms()) == 0 {
		r.row("none")
	}
	for _, alarm := range s.GetAlarms() {
		r.row(alarm)
	}
}

func gatewayRows(r *rows, gateways []*adminv1.Gateway) {
	r.row("ID", "NODE", "STATE", "ROLE", "ZONE", "CONNECT", "KAFKA", "CONNECTIONS", "MAP", "BUILD")
	for _, g := range gateways {
		r.row(short(g.GetName()), g.GetNodeId(), g.GetState(), g.GetRole(), g.GetZone(), g.GetConnectAddress(), g.GetKafkaAddress(), g.GetConnections(), g.GetMapVersion(), g.GetBuild())
	}
}

func gatewayListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the gateways", Args: cobra.NoArgs}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListGatewaysResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.fleet.ListGateways, &adminv1.ListGatewaysRequest{PageToken: token})
			all.Gateways = append(all.Gateways, resp.GetGateways()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) { gatewayRows(r, all.GetGateways()) })
	})
	return cmd
}

// drainPoll is how often a drain is looked at.
const drainPoll = 200 * time.Millisecond

func gatewayDrainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain ID",
		Short: "Make a gateway send its clients elsewhere, hand its groups over and end",
		Args:  cobra.ExactArgs(1),
	}
	wait := cmd.Flags().Duration("wait", time.Minute, "how long to wait for its end")
	noWait := cmd.Flags().Bool("no-wait", false, "do not wait until it has gone")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		name := "gateways/" + strings.TrimPrefix(args[0], "gateways/")
		if _, err := call(cmd.Context(), a, a.fleet.DrainGateway, &adminv1.DrainGatewayRequest{Name: name}); err != nil {
			return err
		}
		if *noWait {
			cmd.PrintErrf("gateway %s was asked to drain\n", short(name))
			return nil
		}
		return a.awaitGone(cmd, name, *wait)
	})
	return cmd
}

// awaitGone waits until a gateway is not in the fleet any more. If it is the one
// that is asked, its end is the end of the answers.
func (a *api) awaitGone(cmd *cobra.Command, name string, wait time.Duration) error {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	connections := int32(-1)
	for {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		resp, err := a.fleet.ListGateways(ctx, &adminv1.ListGatewaysRequest{})
		cancel()
		i := slices.IndexFunc(resp.GetGateways(), func(g *adminv1.Gateway) bool { return g.GetName() == name })
		if err != nil && connect.CodeOf(err) != connect.CodeUnavailable {
			return a.explain(cmd.Context(), err)
		}
		if err != nil || i < 0 {
			cmd.PrintErrf("gateway %s has drained\n", short(name))
			return nil
		}
		if n := resp.GetGateways()[i].GetConnections(); n != connections {
			connections = n
			cmd.PrintErrf("gateway %s: %s left\n", short(name), plural(int64(n), "connection"))
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return fmt.Errorf("gateway %s has not gone after %s; `braid gateway list` shows what it has left", short(name), wait)
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		}
	}
}
