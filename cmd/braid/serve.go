package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/logging"
	"github.com/braidmq/braid/internal/memory"
	"github.com/braidmq/braid/internal/process"
)

// The ports that scripts rest on.
const (
	defaultListen    = "127.0.0.1:8080"
	defaultKafka     = "127.0.0.1:9092"
	defaultBootstrap = "127.0.0.1:9093"
	defaultOps       = "127.0.0.1:9464"
)

// A serving collects the flags of a role into its configuration.
type serving struct {
	config              process.Config
	logLevel, logFormat string
	logs                logging.Config
	gatewayRole         string
	connectAuth         string
	memoryLimit         string
	groupMemory         string
	mutexProfile        int
	limited             []string
	flagged             map[string]string // limits that have a flag
}

func gatewayCommand() *cobra.Command {
	s := &serving{config: process.Config{Role: process.Gateway}}
	cmd := &cobra.Command{
		Use: "gateway", GroupID: groupRoles,
		Short:   "Run a gateway: Connect API and Kafka facade; or list and drain gateways",
		Example: "  braid gateway --redis redis://redis:6379/0 --controller http://controller:8080 --listen 0.0.0.0:8080 --kafka-listen 0.0.0.0:9092",
		Args:    noArgs,
		RunE:    s.run,
	}
	s.common(cmd, "info")
	s.redis(cmd)
	s.controllers(cmd)
	s.kafka(cmd)
	s.gateway(cmd, false)
	s.quotas(cmd)
	s.groupSettings(cmd)
	s.authorization(cmd)
	s.tenants(cmd)
	s.access(cmd)
	s.clusterSecurity(cmd)
	s.opsAccess(cmd)
	s.clients(cmd)
	s.memory(cmd, "auto")
	s.limits(cmd)
	cmd.AddCommand(gatewayListCommand(), gatewayDrainCommand())
	return cmd
}

// noArgs refuses arguments; what stands there is most likely a command that does not exist.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	}
	return nil
}

func controllerCommand() *cobra.Command {
	s := &serving{config: process.Config{Role: process.Controller}}
	cmd := &cobra.Command{
		Use: "controller", GroupID: groupRoles,
		Short:   "Run a controller: several can run, one leads",
		Example: "  braid controller --redis redis://redis:6379/0 --listen 0.0.0.0:8080",
		Args:    noArgs,
		RunE:    s.run,
	}
	s.common(cmd, "info")
	s.redis(cmd)
	s.controller(cmd)
	s.access(cmd)
	s.auditDenials(cmd)
	s.clusterSecurity(cmd)
	s.opsAccess(cmd)
	s.limits(cmd)
	return cmd
}

func nameserverCommand() *cobra.Command {
	s := &serving{config: process.Config{Role: process.NameServer}}
	cmd := &cobra.Command{
		Use: "nameserver", GroupID: groupRoles,
		Short:   "Run a name service: Connect, and a Kafka bootstrap that sends clients to their gateways",
		Example: "  braid nameserver --controller http://controller:8080 --bootstrap-listen 0.0.0.0:9092",
		Args:    noArgs,
		RunE:    s.run,
	}
	s.common(cmd, "info")
	s.redis(cmd)
	s.controllers(cmd)
	s.bootstrap(cmd)
	s.authorization(cmd)
	s.access(cmd)
	s.opsAccess(cmd)
	s.clients(cmd)
	s.connections(cmd)
	s.memory(cmd, "auto")
	cmd.Flags().BoolVar(&s.config.TenantSNI, "tenant-sni", false, "find the tenant in the name of the TLS handshake with the bootstrap, TENANT.HOST, where HOST is that of --bootstrap-host")
	cmd.Flags().BoolVar(&s.config.Tenants, "tenants", false, "tell clients of the deployment's tenants of their gateways, too; users of one log in as TENANT/USER")
	s.limits(cmd)
	return cmd
}

func (s *serving) common(cmd *cobra.Command, level string) {
	f, c := cmd.Flags(), &s.config
	f.StringVar(&c.ID, "id", "", "name of this process in the fleet, the same after a restart; host name and port by default")
	f.StringVar(&c.LogicalCluster, "logical-cluster", federation.DefaultLogicalCluster, "logical cluster that is served")
	f.StringVar(&c.Listen, "listen", defaultListen, "where the Connect API listens")
	f.StringVar(&c.ConnectAdvertise, "connect-advertise", "", "HOST:PORT by which others reach the Connect API; as it listens by default")
	f.StringVar(&c.OpsListen, "ops-listen", defaultOps, "where metrics, health and pprof are served; empty = nowhere")
	f.IntVar(&s.mutexProfile, "mutex-profile", 0, "one of so many waits for a lock is in the profile /debug/pprof/mutex; 0 = none, and no cost")
	f.DurationVar(&c.StopTimeout, "stop-timeout", 30*time.Second, "how long a graceful stop may take")
	f.StringVar(&s.logLevel, "log-level", level, "least level of logs: debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "text", "how logs are written: text or json")
	f.IntVar(&s.logs.ValueBytesMax, "log-value-bytes", 1024, "how many bytes of a name, an error or another value are logged; of longer ones the beginning, and how long they are")
	f.Float64Var(&s.logs.ClientLines, "log-client-lines", 1, "how many lines of one kind that clients can cause are logged in a second; ten seconds' worth at once, and then the next says how many were left out")
}

func (s *serving) redis(cmd *cobra.Command) {
	redisFlags(cmd, &s.config.Redis.URL, &s.config.Redis.Prefix, &s.config.RedisFiles)
}

func redisFlags(cmd *cobra.Command, url, prefix *string, files *process.RedisFiles) {
	f := cmd.Flags()
	f.StringVar(url, "redis", "", "Redis, as redis://[USER[:PASSWORD]@]HOST:PORT/DB, or rediss:// for TLS")
	f.StringVar(prefix, "redis-prefix", "braid", "begins every key in Redis")
	f.StringVar(&files.Password, "redis-password-file", "", "file with the password of Redis, in place of the URL's; read again when it changes")
	f.StringVar(&files.CA, "redis-tls-ca", "", "PEM file of who signs the certificate of Redis; read again when it changes; whom the system trusts by default")
	f.StringVar(&files.Cert, "redis-tls-cert", "", "PEM file of the certificate to show to Redis; read again when it changes")
	f.StringVar(&files.Key, "redis-tls-key", "", "PEM file of its private key")
}

func (s *serving) controllers(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&s.config.Controllers, "controller", nil, "base URLs of controllers; found in Redis by default")
}

func (s *serving) kafka(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config
	f.StringVar(&c.KafkaListen, "kafka-listen", defaultKafka, "where the Kafka facade listens; empty = nowhere")
	f.StringVar(&c.KafkaAdvertise, "kafka-advertise", "", "HOST:PORT that Kafka clients are given for it; as it listens by default")
}

// memory is the flag for the limit of the process, and for the part of it that groups have. In braid dev, embedded clusters keep
// their records in the same memory, so none is set there by default.
func (s *serving) memory(cmd *cobra.Command, def string) {
	cmd.Flags().StringVar(&s.memoryLimit, "memory-limit", def, "memory that the process may take, such as 512MiB: clients that would make it take more are slowed down. auto is three quarters of the cgroup's limit, or half of the machine's memory; none is no limit")
	cmd.Flags().StringVar(&s.groupMemory, "group-memory", "auto", "memory that members of groups may take by what they bring: metadata, subscriptions and assignments. auto is a tenth of --memory-limit, or 512MiB without one. Above it new members are told to try again, and one client has half of it at most")
}

func (s *serving) gateway(cmd *cobra.Command, autoCreate bool) {
	f, c := cmd.Flags(), &s.config
	f.StringVar(&s.gatewayRole, "role", "both", "whom it serves: produce, consume or both")
	f.StringVar(&c.Zone, "zone", "", "where it stands; clients of the zone are sent to it first, and it reads from brokers whose broker.rack it is, if leaders name them")
	f.BoolVar(&c.LeadersOnly, "leaders-only", false, "read from the leaders of physical partitions also where these name a follower in --zone")
	f.BoolVar(&c.AutoCreateTopics, "auto-create-topics", autoCreate, "create a topic when a Kafka client asks for one that does not exist and allows it")
	f.Int32Var(&c.DefaultPartitions, "default-partitions", 4, "partitions of a topic that is created without a count")
	f.BoolVar(&c.Kafka.ClientTelemetry, "client-telemetry", false, "take the metrics that Kafka clients push (KIP-714), and show them among its own")
	f.StringSliceVar(&c.CORSOrigins, "cors-origin", nil, "origins that browsers may call the Connect API from; * is any")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"produce", "consume", "both"}, cobra.ShellCompDirectiveNoFileComp))
}

func (s *serving) authorization(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config.Authorization
	f.StringVar(&c.Authorizer, "authorizer", process.AuthorizerNone, "who decides what clients may do: none allows everything, acl asks ACLs")
	f.StringSliceVar(&c.SuperUsers, "super-users", nil, "principals that may do everything, such as User:admin")
	f.BoolVar(&c.AllowIfNoACL, "allow-everyone-if-no-acl", false, "allow everybody what no ACL speaks of")
	s.auditDenials(cmd)
	_ = cmd.RegisterFlagCompletionFunc("authorizer", cobra.FixedCompletions([]string{process.AuthorizerNone, process.AuthorizerACL}, cobra.ShellCompDirectiveNoFileComp))
}

func (s *serving) auditDenials(cmd *cobra.Command) {
	cmd.Flags().IntVar(&s.config.Authorization.AuditDenials, "audit-denials", 10, "how many denials are logged in a second at most")
}

// quotas adds the flags that say how a gateway holds clients to their quotas.
func (s *serving) quotas(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config
	f.DurationVar(&c.Quotas.Window, "quota-window", 10*time.Second, "how much of its quota a client that has rested may take at once, as the time for which that is the quota")
	f.DurationVar(&c.Quotas.ThrottleMax, "quota-throttle-max", 10*time.Second, "how long a client over its quota is told to wait at most; one whose single request is more than its quota for so long takes more than its quota")
	f.IntVar(&c.Quotas.ClientsMax, "quota-clients", 10_000, "how many users, client ids and IP addresses are counted each for itself; further ones share a quota")
	s.connections(cmd)
}

// connections adds the flags that bound what clients have open.
func (s *serving) connections(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config
	f.IntVar(&c.Connections.ConnectionsMax, "connections-max", 0, "how many connections clients may have open to this process; 0 = as many as a quarter of --memory-limit has room for at 32 KiB each, 20000 at most")
	f.IntVar(&c.Gateway.CallsMax, "calls-max", 0, "how many calls and streams of the Connect API may be open at this process; 0 = as many as a quarter of --memory-limit has room for at 64 KiB each, 20000 at most")
	f.IntVar(&c.Connections.PerIPMax, "connections-max-per-ip", 0, "how many of them from one IP address; 0 = no limit")
	f.Float64Var(&c.Connections.Rate, "connection-rate", 0, "how many connections clients may open in a second; further ones wait; 0 = no limit. For a limit by IP address set the quota connection_creation_rate")
}

// groupSettings are the flags of the group coordinator.
func (s *serving) groupSettings(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config.Groups
	f.DurationVar(&c.ConsumerSessionTimeout, "group-consumer-session-timeout", 45*time.Second, "how long a group member of the newer protocol (group.protocol=consumer) is kept without a heartbeat; others ask for theirs. Give all gateways the same")
	f.DurationVar(&c.ConsumerHeartbeatInterval, "group-consumer-heartbeat-interval", 5*time.Second, "how often such a member is told to send one; it hears of a change of its partitions with the next")
	f.DurationVar(&c.ConsumerSessionTimeoutMin, "group-consumer-session-timeout-min", 0, "shortest session timeout that a group may set for its own members of the newer protocol (group config consumer.session.timeout.ms); 0 = 45s, or that of all groups if it is shorter")
	f.DurationVar(&c.ConsumerSessionTimeoutMax, "group-consumer-session-timeout-max", 0, "longest session timeout that a group may set for its own; 0 = 60s, or that of all groups if it is longer")
	f.DurationVar(&c.ConsumerHeartbeatIntervalMin, "group-consumer-heartbeat-interval-min", 0, "shortest heartbeat interval that a group may set for its own members of the newer protocol (group config consumer.heartbeat.interval.ms); 0 = 5s, or that of all groups if it is shorter")
	f.DurationVar(&c.ConsumerHeartbeatIntervalMax, "group-consumer-heartbeat-interval-max", 0, "longest heartbeat interval that a group may set for its own; 0 = 15s, or that of all groups if it is longer")
	f.DurationVar(&c.SessionTimeoutMin, "group-session-timeout-min", 6*time.Second, "shortest session timeout that group members may ask for")
	f.DurationVar(&c.SessionTimeoutMax, "group-session-timeout-max", 30*time.Minute, "longest session timeout that group members may ask for")
	f.DurationVar(&c.OffsetsRetention, "offsets-retention", 7*24*time.Hour, "how long the committed offsets of a group without members are kept")
}

// tenants are the flags of who serves tenants.
func (s *serving) tenants(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config
	f.BoolVar(&c.Tenants, "tenants", false, "serve the tenants of the deployment too; users of one log in as TENANT/USER")
	f.StringToStringVar(&c.TenantKafkaListen, "tenant-kafka-listen", nil, "listeners of the Kafka facade for clients of one tenant: TENANT=HOST:PORT")
	f.StringToStringVar(&c.TenantKafkaAdvertise, "tenant-kafka-advertise", nil, "the addresses that these clients are given: TENANT=HOST:PORT; those of the listeners by default")
	f.Int32Var(&c.TenantLimits.Groups, "tenant-groups", 10_000, "how many groups a tenant may have that has no limit of its own; give all gateways the same")
	f.Int32Var(&c.TenantLimits.Connections, "tenant-connections", 2000, "how many Kafka connections and Connect streams clients of a tenant may have open to this gateway, if the tenant has no limit of its own")
	f.BoolVar(&c.TenantSNI, "tenant-sni", false, "find the tenant in the name of the TLS handshake, TENANT.HOST, where HOST is that of --kafka-advertise")
}

func (s *serving) controller(cmd *cobra.Command) {
	f, c := cmd.Flags(), &s.config.Controller
	f.DurationVar(&c.LeaseTTL, "leader-lease", 2*time.Second, "how long the lead lasts after its last renewal; a dead leader is replaced after it")
	f.DurationVar(&c.GatewayLease, "gateway-lease", 60*time.Second, "how long gateways go on acknowledging without Redis or a controller")
	f.DurationVar(&c.GatewayGrace, "gateway-grace", 2*time.Second, "how long a gateway whose connection was lost stays in the map")
	f.IntVar(&c.SealHeadsMax, "seal-heads", 250, "how many partitions of a topic move at a time; between them a move can be cancelled")
	f.DurationVar(&c.FailoverAfter, "failover-after", 0, "fail a physical cluster over by itself when it was away for so long, for the leading controller and for most gateways; 0 = never")
	f.Int64Var(&c.RestoreRecordsMax, "restore-records", 10_000_000, "how many records of a partition are appended again at most when a failed cluster is restored; if there are more, they stay at their old offsets")
	f.Int64Var(&c.CopyBytesPerSecond, "copy-rate", 64<<20, "bytes of a compacted topic that its move copies in a second while it takes appends")
	f.IntVar(&c.CopyHeadsMax, "copy-heads", 8, "how many partitions of a compacted topic are copied at a time")
	f.IntVar(&c.ACLsMax, "acls", 20_000, "how many ACLs there can be")
	f.IntVar(&c.QuotasMax, "quotas", 10_000, "how many users, client ids and IP addresses can have quotas")
	f.IntVar(&c.GroupConfigsMax, "group-configs", 10_000, "how many groups can have settings of their own")
	f.IntVar(&c.TenantsMax, "tenants-max", 1000, "how many tenants there can be")
	f.Int32Var(&c.TenantLimits.Topics, "tenant-topics", 1000, "how many topics a tenant may have that has no limit of its own")
	f.Int32Var(&c.TenantLimits.Partitions, "tenant-partitions", 10_000, "how many partitions its topics may have together")
	f.Int32Var(&c.TenantLimits.Credentials, "tenant-credentials", 1000, "how many credentials such a tenant may have")
	f.Int32Var(&c.TenantLimits.ACLs, "tenant-acls", 2000, "how many ACLs such a tenant may have")
	f.Int32Var(&c.TenantLimits.Quotas, "tenant-quotas", 1000, "for how many users and client ids such a tenant may have quotas")
	f.DurationVar(&c.JournalWait, "journal-wait", 200*time.Millisecond, "how long a change of the map waits until one physical cluster has it in its journal")
	f.DurationVar(&c.OffsetsBackupInterval, "offsets-backup-interval", 60*time.Second, "time between two copies of committed offsets to physical clusters")
	f.DurationVar(&c.CollectInterval, "collect-interval", 5*time.Second, "time between two looks at the physical clusters")
}

func (s *serving) bootstrap(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.config.BootstrapListen, "bootstrap-listen", defaultBootstrap, "where the name service's Kafka bootstrap listens; empty = nowhere")
	cmd.Flags().StringToStringVar(&s.config.TenantBootstrapListen, "tenant-bootstrap-listen", nil, "listeners of the bootstrap for clients of one tenant, who are sent to the tenant's own addresses of the gateways: TENANT=HOST:PORT")
	cmd.Flags().StringVar(&s.config.BootstrapHost, "bootstrap-host", "", "the name by which clients reach the bootstrap, for --tenant-sni")
}

// finish turns texts of flags into values.
func (s *serving) finish(stderr io.Writer) error {
	s.config.Build = build()
	var err error
	if s.config.GatewayRole, err = federation.ParseRole(s.gatewayRole); err != nil {
		return usagef("--role: %w", err)
	}
	if err := s.finishAccess(); err != nil {
		return err
	}
	if s.config.Logger, err = newLogger(stderr, s.logLevel, s.logFormat, s.logs); err != nil {
		return err
	}
	if s.mutexProfile < 0 {
		return usagef("--mutex-profile %d: want 0 or more", s.mutexProfile)
	}
	runtime.SetMutexProfileFraction(s.mutexProfile)
	return s.limitMemory()
}

// limitMemory gives the Go runtime its limit. GOMEMLIMIT, if it is set, stays what it is.
func (s *serving) limitMemory() error {
	if s.memoryLimit == "" {
		return nil // of a role that has no such flag
	}
	limit, err := memory.ParseLimit(s.memoryLimit, func() int64 { return memory.Available(os.DirFS("/")) })
	if err != nil {
		return usagef("--memory-limit: %w", err)
	}
	s.config.MemoryLimit = limit
	if s.config.GroupMemory, err = groupMemory(s.groupMemory); err != nil {
		return err
	}
	if limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		memory.SetRuntime(limit)
	}
	return nil
}

func groupMemory(text string) (int64, error) {
	if text == "auto" {
		return 0, nil
	}
	n, err := memory.ParseSize(text)
	switch {
	case err != nil:
		return 0, usagef("--group-memory: %w, or auto", err)
	case n < 1<<20:
		return 0, usagef("--group-memory: %s is too little: want 1MiB or more", text)
	}
	return n, nil
}

func newLogger(w io.Writer, level, format string, cfg logging.Config) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %q: want debug, info, warn or error", level)
	}
	if err := cfg.Validate(); err != nil {
		return nil, usageError{err}
	}
	switch strings.ToLower(format) {
	case "text", "json":
		return logging.New(w, l, strings.EqualFold(format, "json"), cfg), nil
	default:
		return nil, usagef("--log-format %q: want text or json", format)
	}
}

// run runs one role until the context of the command ends.
func (s *serving) run(cmd *cobra.Command, _ []string) error {
	if err := s.finish(cmd.ErrOrStderr()); err != nil {
		return err
	}
	if err := s.applyLimits(&s.config); err != nil {
		return err
	}
	p, err := process.New(cmd.Context(), s.config)
	if _, ok := errors.AsType[process.ConfigError](err); ok {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	return p.Run(cmd.Context())
}
