package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/security"
)

// access adds the flags that say who may connect to the Connect API, and how the
// processes of a fleet know each other.
func (s *serving) access(cmd *cobra.Command) {
	f, a := cmd.Flags(), &s.config.Access
	tlsFlags(f, "", "the Connect API", &a.Connect)
	f.StringVar(&a.CA, "tls-ca", "", "PEM file of who signs the certificates of the other processes; read again when it changes; whom the system trusts by default")
	f.StringVar(&a.FleetTokenFile, "fleet-token-file", "", "file with the secret by which processes of the fleet know each other, of 32 characters or more; further lines are taken, too, so that it can be replaced; gateways that ask clients who they are, ask ACLs or serve tenants do not start without it")
}

const (
	clusterSecurityFlag = "cluster-security-dir"
	clusterSecurityHelp = "directory of the security profiles that physical clusters name: NAME.yaml each, with TLS and SASL; read again when they change"
)

// clusterSecurity adds the flag for processes that reach physical clusters.
func (s *serving) clusterSecurity(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.config.Access.ClusterSecurityDir, clusterSecurityFlag, "", clusterSecurityHelp)
}

// profilesFlag says which security profile clusters that are named in flags have.
func profilesFlag(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArray("cluster-profile", nil, "security profile of a cluster of --cluster, as NAME=PROFILE; can be repeated")
}

// withProfiles gives clusters the profiles that flags name.
func withProfiles(clusters []embedded.Cluster, flags []string) error {
	for _, f := range flags {
		name, profile, ok := strings.Cut(f, "=")
		i := slices.IndexFunc(clusters, func(c embedded.Cluster) bool { return c.Name == name })
		switch {
		case !ok || name == "" || profile == "":
			return usagef("--cluster-profile %q: want NAME=PROFILE", f)
		case i < 0:
			return usagef("--cluster-profile %q: no --cluster is named %q", f, name)
		}
		if err := security.CheckProfileName(profile); err != nil {
			return usageError{err}
		}
		clusters[i].SecurityProfile = profile
	}
	return nil
}

// opsAccess adds the flags of the ops port.
func (s *serving) opsAccess(cmd *cobra.Command) {
	tlsFlags(cmd.Flags(), "ops-", "metrics, health and pprof", &s.config.Access.Ops)
}

// clients adds the flags that say how clients prove who they are.
func (s *serving) clients(cmd *cobra.Command) {
	f, a := cmd.Flags(), &s.config.Access
	tlsFlags(f, "kafka-", "the Kafka facade", &a.Kafka)
	f.StringVar(&s.connectAuth, "connect-auth", "none", "whether clients of the Connect API must authenticate: none or required")
	f.StringSliceVar(&a.SaslMechanisms, "kafka-sasl-mechanisms", nil, "SASL mechanisms that Kafka clients must authenticate with: SCRAM-SHA-256, SCRAM-SHA-512, PLAIN, OAUTHBEARER; none by default")
	f.DurationVar(&s.config.Kafka.ReauthMax, "kafka-connections-max-reauth", 0, "how long a Kafka client is known before it must authenticate again; 0 = for ever, or as long as its token")
	f.DurationVar(&s.config.Kafka.AuthenticationTimeout, "kafka-authentication-timeout", 10*time.Second, "how long TLS handshake and authentication of a Kafka client may take")
	f.IntVar(&a.Passwords.WaitingMax, "passwords-waiting", 4096, "how many passwords of each door may wait to be checked (PLAIN, Basic); those that were right before do not wait, and who has no place is to come again")
	f.IntVar(&a.Passwords.PerIPMax, "passwords-waiting-per-ip", 1024, "how many of them from one IP address, or one /64 of IPv6; addresses take turns, and at each of them users do")
	f.DurationVar(&a.Passwords.WaitMax, "password-wait", 10*time.Second, "how long a password waits to be checked; Kafka clients no longer than --kafka-authentication-timeout")
	f.StringVar(&a.PrincipalRules, "tls-principal-rules", "", "makes users of the subjects of client certificates, as Kafka's ssl.principal.mapping.rules: RULE:PATTERN/REPLACEMENT/[LU] or DEFAULT, separated by commas; the whole subject by default")
	f.StringVar(&a.Tokens.Issuer, "oauth-issuer", "", "issuer (iss) whose tokens (JWT) are taken")
	f.StringVar(&a.Tokens.Audience, "oauth-audience", "", "audience (aud) that tokens must be for")
	f.StringVar(&a.Tokens.Keys, "oauth-jwks", "", "URL or file of the issuer's keys, a JSON Web Key Set")
	f.StringVar(&a.Tokens.Claim, "oauth-principal-claim", "", "claim of a token that names the user; sub by default")
	f.DurationVar(&a.Tokens.Skew, "oauth-clock-skew", 0, "how far the issuer's clock may differ; 0 = 30s")
	f.DurationVar(&a.Tokens.Refresh, "oauth-jwks-refresh", 0, "time between two looks at the issuer's keys; 0 = 1h")
	_ = cmd.RegisterFlagCompletionFunc("connect-auth", cobra.FixedCompletions([]string{"none", "required"}, cobra.ShellCompDirectiveNoFileComp))
}

func tlsFlags(f *pflag.FlagSet, prefix, of string, files *security.TLSFiles) {
	f.StringVar(&files.Cert, prefix+"tls-cert", "", "PEM file of the certificate of "+of+", with its chain; read again when it changes; no TLS by default")
	f.StringVar(&files.Key, prefix+"tls-key", "", "PEM file of its private key")
	f.StringVar(&files.ClientCA, prefix+"tls-client-ca", "", "PEM file of who signs certificates of clients of "+of+"; read again when it changes")
	f.StringVar(&files.ClientAuth, prefix+"tls-client-auth", security.ClientAuthNone, "whether clients of "+of+" show certificates: none, requested or required")
}

// finishAccess turns texts of flags into values.
func (s *serving) finishAccess() error {
	switch strings.ToLower(s.connectAuth) {
	case "", "none":
	case "required":
		s.config.Access.ConnectRequired = true
	default:
		return usagef("--connect-auth %q: want none or required", s.connectAuth)
	}
	for i, m := range s.config.Access.SaslMechanisms {
		s.config.Access.SaslMechanisms[i] = strings.ToUpper(strings.TrimSpace(m))
	}
	return nil
}
