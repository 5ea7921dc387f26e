package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/process"
)

func recoverCommand() *cobra.Command {
	var config process.RecoverConfig
	var clusters []string
	var profiles *[]string
	cmd := &cobra.Command{
		Use: "recover", GroupID: groupAdmin,
		Short: "Bring the map and the offsets of groups back into a Redis that has lost them",
		Long: `Bring the map of a logical cluster, and the offsets that its groups have committed,
from the physical clusters back into a Redis that has lost them. One cluster is
enough: the map that it holds leads to the others.

Nothing is written over a map that is as new, or an offset that is higher, so the
command can be repeated. It refuses if a newer map may exist: a cluster does not
answer, or a log shows that a partition has moved since. Controllers and gateways
may run meanwhile.`,
		Example: "  braid recover --redis redis://redis:6379/0 --cluster east=kafka-e1:9092,kafka-e2:9092\n" +
			"  braid recover --redis redis://redis:6379/0 --cluster east=kafka-e1:9092 --dry-run",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			named, err := parseClusters(clusters)
			if err == nil {
				err = withProfiles(named, *profiles)
			}
			switch {
			case err != nil:
				return err
			case config.Redis.URL == "":
				return usagef("which Redis? Set --redis redis://HOST:PORT/DB")
			case len(named) == 0:
				return usagef("which clusters? Set --cluster NAME=HOST:PORT[,HOST:PORT] for one or more of the physical clusters")
			}
			for _, c := range named {
				config.Clusters = append(config.Clusters, &federation.Cluster{Name: federation.ClusterName(c.Name), Seeds: c.Seeds, SecurityProfile: c.SecurityProfile})
			}
			if config.Logger, err = newLogger(cmd.ErrOrStderr(), "warn", "text", logging.Config{}); err != nil {
				return err
			}
			config.Out = cmd.OutOrStdout()
			err = process.Recover(cmd.Context(), config)
			if _, ok := errors.AsType[process.ConfigError](err); ok {
				return usageError{err}
			}
			return err
		},
	}
	f := cmd.Flags()
	redisFlags(cmd, &config.Redis.URL, &config.Redis.Prefix, &config.RedisFiles)
	f.StringVar(&config.LogicalCluster, "logical-cluster", federation.DefaultLogicalCluster, "logical cluster that is recovered")
	f.StringArrayVar(&clusters, "cluster", nil, "a physical cluster, as NAME=HOST:PORT[,HOST:PORT]; can be repeated")
	profiles = profilesFlag(cmd)
	f.StringVar(&config.ClusterSecurityDir, clusterSecurityFlag, "", clusterSecurityHelp)
	f.BoolVar(&config.Force, "force", false, "go on where a newer map may exist")
	f.BoolVar(&config.DryRun, "dry-run", false, "say what would be done, and change nothing")
	return cmd
}
