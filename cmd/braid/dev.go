package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/lifecycle"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/security"
)

// portsMax bounds the search for the free ports of further gateways.
const portsMax = 1000

func devCommand() *cobra.Command {
	d := &dev{serving: serving{config: process.Config{Role: process.Gateway}}}
	cmd := &cobra.Command{
		Use: "dev", GroupID: groupRoles,
		Short: "Run everything in one process, with nothing installed",
		Long: `Run everything in one process: Redis, two Kafka clusters named a and b, a
controller, a name service and a gateway. --redis and --cluster put real ones in
the place of embedded parts; with --cluster, no embedded cluster is started.

With --data-dir, embedded Redis and clusters keep their data over restarts: Redis
saves every few seconds and at the end, the clusters as they go. A crash can lose
the last seconds; remove the directory to begin anew.`,
		Example: "  braid dev\n" +
			"  braid dev --gateways 3 --data-dir ./data\n" +
			"  braid dev --redis redis://127.0.0.1:6379/0 --cluster east=127.0.0.1:19092 --cluster west=127.0.0.1:29092,127.0.0.1:29093",
		Args: noArgs,
		RunE: d.run,
	}
	d.common(cmd, "warn")
	d.redis(cmd)
	d.kafka(cmd)
	d.bootstrap(cmd)
	d.gateway(cmd, true)
	d.quotas(cmd)
	d.groupSettings(cmd)
	d.authorization(cmd)
	d.tenants(cmd)
	d.memory(cmd, "none")
	d.controller(cmd)
	d.access(cmd)
	d.clusterSecurity(cmd)
	d.serving.clients(cmd)
	d.profiles = profilesFlag(cmd)
	d.limits(cmd)
	cmd.Flags().StringArrayVar(&d.clusters, "cluster", nil, "a real Kafka cluster, as NAME=HOST:PORT[,HOST:PORT]; can be repeated")
	cmd.Flags().IntVar(&d.gateways, "gateways", 1, "how many gateways to run; further ones take the next free ports")
	cmd.Flags().IntVar(&d.brokers, "brokers", 3, "brokers of each embedded Kafka cluster")
	cmd.Flags().StringVar(&d.dataDir, "data-dir", "", "directory that keeps the data of embedded parts; memory by default")
	cmd.Flags().BoolVar(&d.quiet, "quiet", false, "print the line that begins with ready, and no more")
	return cmd
}

// A dev is one run of `braid dev`.
type dev struct {
	serving
	clusters          []string
	profiles          *[]string
	gateways, brokers int
	dataDir           string
	quiet             bool
}

func (d *dev) run(cmd *cobra.Command, _ []string) error {
	if err := d.finish(cmd.ErrOrStderr()); err != nil {
		return err
	}
	for _, role := range []process.Role{process.Gateway, process.Controller, process.NameServer} {
		if err := d.applyLimits(&process.Config{Role: role}); err != nil {
			return err
		}
	}
	options, ops, err := d.options()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	f, err := embedded.Start(ctx, options)
	if err != nil {
		if ops != nil {
			_ = ops.Close()
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped while it started
		}
		return err
	}
	var tasks []lifecycle.Task
	if ops != nil {
		tasks = append(tasks, process.OpsTask(ops, f.Telemetry(), f.Checks, d.config.Logger))
	}
	tasks = append(tasks, lifecycle.Task{Name: "federation", Run: func(ctx context.Context) error {
		select {
		case err := <-f.Failed():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	d.welcome(cmd.OutOrStdout(), f)
	err = lifecycle.Run(ctx, lifecycle.Config{Logger: d.config.Logger}, tasks...)
	return errors.Join(err, f.Close())
}

// options says what to start, and opens the ops port.
func (d *dev) options() (embedded.Options, net.Listener, error) {
	var none embedded.Options
	clusters, err := parseClusters(d.clusters)
	if err != nil {
		return none, nil, err
	}
	if err := withProfiles(clusters, *d.profiles); err != nil {
		return none, nil, err
	}
	if d.gateways < 1 {
		return none, nil, usagef("--gateways %d: want 1 or more", d.gateways)
	}
	if d.brokers < 1 {
		return none, nil, usagef("--brokers %d: want 1 or more", d.brokers)
	}
	if d.dataDir != "" {
		if d.dataDir, err = filepath.Abs(d.dataDir); err != nil {
			return none, nil, fmt.Errorf("--data-dir: %w", err)
		}
		if err := os.MkdirAll(d.dataDir, 0o700); err != nil {
			return none, nil, fmt.Errorf("--data-dir: %w", err)
		}
	}
	if d.config.Redis.URL != "" && len(clusters) == 0 && d.dataDir == "" {
		d.config.Logger.Warn("embedded Kafka clusters forget their data at the end, and Redis does not: use --data-dir, or --cluster for real ones")
	}
	var ops net.Listener
	if d.config.OpsListen != "" {
		if ops, err = process.Listen(net.Listen, d.config.OpsListen, "ops-listen"); err != nil {
			return none, nil, err
		}
	}
	if err := d.fleetToken(); err != nil {
		return none, ops, err
	}
	base := d.config
	return embedded.Options{
		RedisURL: base.Redis.URL, RedisPrefix: base.Redis.Prefix, Clusters: clusters, Brokers: d.brokers,
		Gateways: d.gateways, NameServers: 1, DataDir: d.dataDir, Build: base.Build, Logger: base.Logger,
		FleetToken: d.config.Access.FleetToken, FleetCA: d.config.Access.CA, Configure: d.configure,
	}, ops, nil
}

// fleetToken makes the processes know each other as soon as clients must say who they
// are, or not all may do everything: by the token of the file, which lets an operator
// create the first user, or by one that nobody else has.
func (d *dev) fleetToken() error {
	a := &d.config.Access
	switch {
	case a.FleetTokenFile != "":
		token, err := security.ReadSharedToken(a.FleetTokenFile, d.config.Logger)
		if err != nil {
			return usagef("--fleet-token-file: %w", err)
		}
		a.FleetToken, a.FleetTokenFile = token.Current(), ""
	case a.ConnectRequired:
		return usagef("--connect-auth required needs --fleet-token-file: nobody could create the first user without its token")
	case len(a.SaslMechanisms) > 0, d.config.Authorization.Authorizer == process.AuthorizerACL,
		d.config.Tenants, len(d.config.TenantKafkaListen) > 0:
		a.FleetToken = security.NewSecret()
	}
	return nil
}

// configure gives the processes of a federation the settings of the command line.
func (d *dev) configure(c *process.Config, index int) {
	d.settings(c, index)
	_ = d.applyLimits(c) // they were looked at before
}

func (d *dev) settings(c *process.Config, index int) {
	c.LogicalCluster, c.StopTimeout, c.Authorization = d.config.LogicalCluster, d.config.StopTimeout, d.config.Authorization
	c.Access, c.Kafka, c.RedisFiles = d.config.Access, d.config.Kafka, d.config.RedisFiles
	switch c.Role {
	case process.Gateway:
		c.Quotas, c.Connections, c.Gateway.CallsMax = d.config.Quotas, d.config.Connections, d.config.Gateway.CallsMax
		c.MemoryLimit = d.config.MemoryLimit / int64(d.gateways)
		c.GatewayRole, c.Zone, c.LeadersOnly, c.CORSOrigins = d.config.GatewayRole, d.config.Zone, d.config.LeadersOnly, d.config.CORSOrigins
		c.AutoCreateTopics, c.DefaultPartitions = d.config.AutoCreateTopics, d.config.DefaultPartitions
		c.Kafka.ClientTelemetry = d.config.Kafka.ClientTelemetry
		c.Listen, c.KafkaListen = d.config.Listen, d.config.KafkaListen
		c.Tenants, c.TenantSNI, c.TenantKafkaListen, c.TenantLimits = d.config.Tenants, d.config.TenantSNI, maps.Clone(d.config.TenantKafkaListen), d.config.TenantLimits
		if index == 0 {
			c.ConnectAdvertise, c.KafkaAdvertise = d.config.ConnectAdvertise, d.config.KafkaAdvertise
			c.TenantKafkaAdvertise = d.config.TenantKafkaAdvertise
			if d.config.ID != "" {
				c.ID = d.config.ID
			}
			return
		}
		taken := []string{d.config.Listen, d.config.KafkaListen, d.config.BootstrapListen, d.config.OpsListen}
		c.Listen = nextFree(d.config.Listen, index, taken)
		c.KafkaListen = nextFree(d.config.KafkaListen, index, taken)
		for tenant, address := range c.TenantKafkaListen {
			c.TenantKafkaListen[tenant] = nextFree(address, index, taken)
		}
	case process.NameServer:
		c.Tenants, c.TenantSNI = d.config.Tenants, d.config.TenantSNI
		c.BootstrapListen, c.TenantBootstrapListen = d.config.BootstrapListen, d.config.TenantBootstrapListen
		if c.BootstrapHost = d.config.BootstrapHost; c.BootstrapHost == "" { // most likely the same machine
			c.BootstrapHost, _, _ = net.SplitHostPort(d.config.KafkaAdvertise)
		}
	case process.Controller:
		c.Access.Connect.ClientAuth = "" // its clients are the other processes, which have the fleet's token
		c.Controller = d.config.Controller
	}
}

// nextFree returns an address above another one's port that nobody listens on.
func nextFree(address string, after int, taken []string) string {
	host, portText, err := net.SplitHostPort(address)
	if err != nil || portText == "0" {
		return address
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return address
	}
	var probe net.ListenConfig
	for p := port + after; p < port+after+portsMax && p < 1<<16; p++ {
		a := net.JoinHostPort(host, strconv.Itoa(p))
		if slices.Contains(taken, a) {
			continue
		}
		l, err := probe.Listen(context.Background(), "tcp", a)
		if err != nil {
			continue
		}
		_ = l.Close()
		return a
	}
	return net.JoinHostPort(host, "0")
}

// parseClusters reads NAME=HOST:PORT[,HOST:PORT].
func parseClusters(flags []string) ([]embedded.Cluster, error) {
	var all []embedded.Cluster
	for _, f := range flags {
		name, seeds, ok := strings.Cut(f, "=")
		if !ok || name == "" || seeds == "" {
			return nil, usagef("--cluster %q: want NAME=HOST:PORT[,HOST:PORT]", f)
		}
		c := embedded.Cluster{Name: name, Seeds: strings.Split(seeds, ",")}
		for _, s := range c.Seeds {
			if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
				return nil, usagef("--cluster %q: %q is no HOST:PORT", f, s)
			}
		}
		if slices.ContainsFunc(all, func(o embedded.Cluster) bool { return o.Name == name }) {
			return nil, usagef("--cluster %q: the name %q is there twice", f, name)
		}
		all = append(all, c)
	}
	return all, nil
}

// welcome prints the line that scripts wait for, and what to try.
func (d *dev) welcome(w io.Writer, f *embedded.Federation) {
	first := f.Gateway(0)
	names := make([]string, 0, len(f.Clusters()))
	for _, c := range f.Clusters() {
		names = append(names, c.Name)
	}
	bootstrap := ""
	for _, n := range f.NameServers() {
		bootstrap = n.BootstrapAddress()
	}
	_, _ = fmt.Fprintf(w, "ready: Connect API %s, Kafka %s, name service %s, clusters %s\n",
		first.URL(), strings.Join(f.KafkaAddresses(), ","), bootstrap, strings.Join(names, ","))
	if d.quiet {
		return
	}
	api := ""
	if first.URL() != defaultAPI {
		api = " --api " + first.URL()
	}
	_, _ = fmt.Fprintf(w, `
Try, in another terminal:

  braid topic create%[1]s orders --partitions 4
  printf 'k1:hello\nk2:world\n' | braid produce%[1]s orders -k :
  braid consume%[1]s orders --from earliest -n 2
  braid topic describe%[1]s orders

  echo 'k3:from kcat' | kcat -b %[2]s -t orders -P -K :
  kcat -b %[2]s -t orders -C -o beginning -e

  buf curl --http2-prior-knowledge -d '{"batch":{"topic":"orders","records":[{"keyText":"k4","valueText":"from buf"}]}}' \
    %[3]s/braid.v1.ProducerService/ProduceBatch
  buf curl --http2-prior-knowledge -d '{"sources":[{"topic":"orders","start":{"earliest":true}}],"stop":{"latestAtStart":true},"delivery":{"textView":true}}' \
    %[3]s/braid.v1.ConsumerService/Read

Ctrl-C ends it.
`, api, first.KafkaAddress(), first.URL())
}
