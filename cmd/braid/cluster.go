package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

const clusterPrefix = "physicalClusters/"

func clusterCommand() *cobra.Command {
	return parent("cluster", "Physical Kafka clusters",
		clusterAddCommand(), clusterUpdateCommand(), clusterListCommand(), clusterDescribeCommand(), clusterDrainCommand(), clusterFailCommand(), clusterRestoreCommand(), clusterRemoveCommand())
}

func clusterAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "add NAME --seeds HOST:PORT,...",
		Short:   "Register a Kafka cluster; it is contacted first",
		Example: "  braid cluster add east --seeds kafka-1:9092,kafka-2:9092",
		Args:    cobra.ExactArgs(1),
	}
	seeds := cmd.Flags().StringSlice("seeds", nil, "addresses of some of its brokers")
	weight := cmd.Flags().Int32("weight", 0, "its share of new partitions relative to other clusters; 0 = as the others")
	profile := cmd.Flags().String("security-profile", "", "name of the profile of TLS and SASL that each gateway and controller has in its --cluster-security-dir; neither by default")
	_ = cmd.MarkFlagRequired("seeds")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.clusters.CreateCluster, &adminv1.CreateClusterRequest{
			Cluster: &adminv1.Cluster{Name: clusterPrefix + args[0], Bootstrap: *seeds, Weight: *weight, SecurityProfile: *profile},
		})
		if err != nil {
			return err
		}
		cmd.PrintErrf("cluster %s added: %s\n", args[0], plural(int64(resp.GetCluster().GetBrokers()), "broker"))
		return nil
	})
	return cmd
}

func clusterUpdateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a cluster's addresses, weight or security profile; it is contacted first",
		Long: "Change a cluster's addresses, weight or security profile; it is contacted first. All gateways and controllers connect anew when\n" +
			"addresses or profile change: give each of them the files of a profile before you name it.",
		Example: "  braid cluster update east --security-profile east-2",
		Args:    cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	seeds := f.StringSlice("seeds", nil, "addresses of some of its brokers")
	weight := f.Int32("weight", 0, "its share of new partitions relative to other clusters")
	profile := f.String("security-profile", "", "name of the profile of TLS and SASL; an empty one is neither")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		mask := &fieldmaskpb.FieldMask{}
		for flag, path := range map[string]string{"seeds": "bootstrap", "weight": "weight", "security-profile": "security_profile"} {
			if f.Changed(flag) {
				mask.Paths = append(mask.Paths, path)
			}
		}
		if len(mask.GetPaths()) == 0 {
			return usagef("what is to change? Set --seeds, --weight or --security-profile")
		}
		_, err := call(cmd.Context(), a, a.clusters.UpdateCluster, &adminv1.UpdateClusterRequest{
			Cluster:    &adminv1.Cluster{Name: clusterPrefix + args[0], Bootstrap: *seeds, Weight: *weight, SecurityProfile: *profile},
			UpdateMask: mask,
		})
		if err != nil {
			return err
		}
		cmd.PrintErrf("cluster %s updated\n", args[0])
		return nil
	})
	return cmd
}

func clusterListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the clusters", Args: cobra.NoArgs}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListClustersResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.clusters.ListClusters, &adminv1.ListClustersRequest{PageToken: token})
			all.Clusters = append(all.Clusters, resp.GetClusters()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) { clusterRows(r, all.GetClusters()) })
	})
	return cmd
}

func clusterRows(r *rows, clusters []*adminv1.Cluster) {
	r.row("NAME", "STATE", "HEALTH", "BROKERS", "EXTENTS", "WEIGHT", "DETAIL")
	for _, c := range clusters {
		r.row(short(c.GetName()), clusterState(c), health(c), c.GetBrokers(), c.GetExtents(), c.GetWeight(), c.GetDetail())
	}
}

func clusterState(c *adminv1.Cluster) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(c.GetState().String(), "STATE_"), "_", "-"))
}

func health(c *adminv1.Cluster) string {
	if c.GetHealthy() {
		return "up"
	}
	return "DOWN"
}

func clusterDescribeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "describe NAME", Short: "Show one cluster", Args: cobra.ExactArgs(1)}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.clusters.GetCluster, &adminv1.GetClusterRequest{Name: clusterPrefix + args[0]})
		if err != nil {
			return err
		}
		c := resp.GetCluster()
		return printMessage(cmd, c, func(r *rows) {
			r.row("Name:", short(c.GetName()))
			r.row("State:", clusterState(c))
			r.row("Health:", health(c))
			r.row("Seeds:", strings.Join(c.GetBootstrap(), ","))
			if c.GetSecurityProfile() != "" {
				r.row("Security profile:", c.GetSecurityProfile())
			}
			r.row("Brokers:", c.GetBrokers())
			r.row("Extents:", c.GetExtents())
			r.row("Weight:", c.GetWeight())
			if c.GetDetail() != "" {
				r.row("Detail:", c.GetDetail())
			}
		})
	})
	return cmd
}

func clusterRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Forget a cluster; refused while it holds a topic's data",
		Long: "Forget a cluster; refused while it holds a topic's data. With --abandon, a failed cluster that never comes back is forgotten\n" +
			"with all that lies there: readers go on behind it. That cannot be undone, so it tells what is given up, and asks for --confirm.",
		Example: "  braid cluster remove east --abandon --validate-only",
		Args:    cobra.ExactArgs(1),
	}
	abandon := cmd.Flags().Bool("abandon", false, "give up what lies on a failed cluster that never comes back")
	confirm := cmd.Flags().String("confirm", "", "with --abandon: the cluster's name once more")
	validate := cmd.Flags().Bool("validate-only", false, "with --abandon: change nothing; say what would be given up")
	noWait := noWaitFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		switch {
		case *abandon:
			return a.abandon(cmd, args[0], *confirm, *noWait, *validate)
		case *confirm != "" || *noWait || *validate:
			return errors.New("--confirm, --no-wait and --validate-only go with --abandon")
		}
		if _, err := call(cmd.Context(), a, a.clusters.DeleteCluster, &adminv1.DeleteClusterRequest{Name: clusterPrefix + args[0]}); err != nil {
			return err
		}
		cmd.PrintErrf("cluster %s removed\n", args[0])
		return nil
	})
	return cmd
}

// abandon tells what is given up with a failed cluster, and gives it up if that is
// confirmed.
func (a *api) abandon(cmd *cobra.Command, name, confirm string, noWait, validate bool) error {
	plan, err := call(cmd.Context(), a, a.clusters.AbandonCluster, &adminv1.AbandonClusterRequest{Name: clusterPrefix + name, ValidateOnly: true})
	if err != nil {
		return err
	}
	records := int64(0)
	for _, t := range plan.GetTopics() {
		cmd.Printf("%s: %s, %s, %s that were acknowledged or read, %d of them not read by anyone\n", short(t.GetName()),
			plural(int64(len(t.GetPartitions())), "partition"), plural(int64(t.GetExtents()), "extent"), plural(t.GetRecords(), "record"), t.GetUnseen())
		records += t.GetRecords()
	}
	what := fmt.Sprintf("%s of %s, as far as is known,", plural(records, "record"), plural(int64(len(plan.GetTopics())), "topic"))
	switch {
	case validate:
		cmd.PrintErrf("%s would be given up\n", what)
		return nil
	case confirm != name:
		return fmt.Errorf("nothing was changed: %s would be given up for good; if cluster %s never comes back, repeat this with --confirm %s", what, name, name)
	}
	resp, err := call(cmd.Context(), a, a.clusters.AbandonCluster, &adminv1.AbandonClusterRequest{Name: clusterPrefix + name, NoWait: true})
	if err != nil {
		return err
	}
	return a.finish(cmd, resp.GetOperation(), noWait, fmt.Sprintf("cluster %s removed; %s given up", name, what))
}

func clusterDrainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Move all partitions off a cluster, while clients go on",
		Long: "Move the heads of all partitions off a cluster, while clients go on. What was written before stays readable there\n" +
			"until retention has emptied it; then the cluster can be removed.",
		Args: cobra.ExactArgs(1),
	}
	waitEmpty := cmd.Flags().Bool("wait-empty", false, "wait until retention has emptied the cluster, so that it can be removed")
	noWait, validate := noWaitFlag(cmd), validateFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.clusters.DrainCluster, &adminv1.DrainClusterRequest{
			Name: clusterPrefix + args[0], WaitEmpty: *waitEmpty, ValidateOnly: *validate, NoWait: true,
		})
		if err != nil {
			return err
		}
		return a.finishMoves(cmd, resp.GetOperation(), resp.GetMoves(), *noWait, *validate)
	})
	return cmd
}

func clusterFailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fail NAME",
		Short: "Give up a cluster that does not come back soon: its partitions go on elsewhere",
		Long: "Give up a cluster that does not come back soon. Partitions whose heads lie there go on on other clusters, behind a gap in\n" +
			"their offsets; what lies on the cluster cannot be read until `braid cluster restore` has taken it back.\n" +
			"Whether readers go on behind the gap or wait is the topic's setting braid.failover.read: skip (the default) or wait.",
		Example: "  braid cluster fail east --validate-only",
		Args:    cobra.ExactArgs(1),
	}
	noWait, validate := noWaitFlag(cmd), validateFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.clusters.FailoverCluster, &adminv1.FailoverClusterRequest{
			Name: clusterPrefix + args[0], ValidateOnly: *validate, NoWait: true,
		})
		if err != nil {
			return err
		}
		return a.finishMoves(cmd, resp.GetOperation(), resp.GetMoves(), *noWait, *validate)
	})
	return cmd
}

func clusterRestoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore NAME",
		Short: "Let a draining cluster take partitions again, or take a failed one back",
		Long: "Let a draining cluster take partitions again, or take a failed one back that answers again: what lies there is read again,\n" +
			"and records that no reader had seen are appended again, or stay in their order (the topic's setting braid.failover.read).\n" +
			"Partitions do not go back by themselves: `braid topic expand` spreads them.",
		Args: cobra.ExactArgs(1),
	}
	noWait := noWaitFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.clusters.RestoreCluster, &adminv1.RestoreClusterRequest{Name: clusterPrefix + args[0], NoWait: true})
		if err != nil {
			return err
		}
		return a.finish(cmd, resp.GetOperation(), *noWait && resp.GetOperation() != "", fmt.Sprintf("cluster %s is active", args[0]))
	})
	return cmd
}

// withAPI gives a command the API flags and its run function an api.
func withAPI(cmd *cobra.Command, f func(cmd *cobra.Command, a *api, args []string) error) func(*cobra.Command, []string) error {
	apiFlags(cmd)
	return func(cmd *cobra.Command, args []string) error {
		a, err := newAPI(cmd)
		if err != nil {
			return err
		}
		return f(cmd, a, args)
	}
}

// pagesMax bounds the pages of one list.
const pagesMax = 100_000

// pages reads all pages of a list.
func pages(page func(token string) (next string, err error)) error {
	token := ""
	for range pagesMax {
		next, err := page(token)
		if err != nil || next == "" {
			return err
		}
		token = next
	}
	return fmt.Errorf("the list has more than %d pages", pagesMax)
}

// short returns the last part of a resource's name.
func short(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
