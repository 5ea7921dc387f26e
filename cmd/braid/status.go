package main

import (
	"fmt"

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
		return print(cmd, resp, func(r *rows) { statusRows(r, resp) })
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
		return print(cmd, all, func(r *rows) { gatewayRows(r, all.GetGateways()) })
	})
	return cmd
}
