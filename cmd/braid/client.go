package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/gen/braid/v1/braidv1connect"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
)

const defaultAPI = "http://127.0.0.1:8080"

// An api calls the public API of a gateway or a controller.
type api struct {
	base    string
	timeout time.Duration
	client  *http.Client

	clusters   adminv1connect.ClusterServiceClient
	topics     adminv1connect.TopicServiceClient
	groups     adminv1connect.GroupServiceClient
	fleet      adminv1connect.FleetServiceClient
	operations adminv1connect.OperationServiceClient
	acls       adminv1connect.AclServiceClient
	quotas     adminv1connect.QuotaServiceClient
	creds      adminv1connect.CredentialServiceClient
	tenants    adminv1connect.TenantServiceClient
	producer   braidv1connect.ProducerServiceClient
	consumer   braidv1connect.ConsumerServiceClient
}

// apiFlags gives a command the flags with which it finds the API.
func apiFlags(cmd *cobra.Command) {
	cmd.Flags().String("api", defaultAPI, "base URL of the Connect API of a gateway")
	cmd.Flags().String("token", "", "token that proves who calls, as of `braid credential create`")
	cmd.Flags().String("token-file", "", "file with that token")
	cmd.Flags().String("tls-ca", "", "PEM file of who signs the certificate of the API; whom the system trusts by default")
	cmd.Flags().String("tls-cert", "", "PEM file of a certificate that proves who calls")
	cmd.Flags().String("tls-key", "", "PEM file of its private key")
	cmd.Flags().Duration("timeout", 30*time.Second, "how long one call of the API may take")
}

// newAPI makes the clients of a command that has apiFlags.
func newAPI(cmd *cobra.Command) (*api, error) {
	base, err := cmd.Flags().GetString("api")
	if err != nil {
		return nil, err
	}
	timeout, err := cmd.Flags().GetDuration("timeout")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("--api %q: want a URL such as %s", base, defaultAPI)
	}
	client, err := httpClient(cmd)
	if err != nil {
		return nil, err
	}
	return newClients(client, base, timeout), nil
}

func newClients(client *http.Client, base string, timeout time.Duration) *api {
	return &api{
		base: base, timeout: timeout, client: client,
		clusters:   adminv1connect.NewClusterServiceClient(client, base),
		topics:     adminv1connect.NewTopicServiceClient(client, base),
		groups:     adminv1connect.NewGroupServiceClient(client, base),
		fleet:      adminv1connect.NewFleetServiceClient(client, base),
		operations: adminv1connect.NewOperationServiceClient(client, base),
		acls:       adminv1connect.NewAclServiceClient(client, base),
		quotas:     adminv1connect.NewQuotaServiceClient(client, base),
		creds:      adminv1connect.NewCredentialServiceClient(client, base),
		tenants:    adminv1connect.NewTenantServiceClient(client, base),
		producer:   braidv1connect.NewProducerServiceClient(client, base),
		consumer:   braidv1connect.NewConsumerServiceClient(client, base),
	}
}

// httpClient speaks HTTP/2, without TLS by prior knowledge, so that streams in
// both directions work. It shows what the flags have of a proof of who calls.
func httpClient(cmd *cobra.Command) (*http.Client, error) {
	flag := func(name string) string { v, _ := cmd.Flags().GetString(name); return v }
	own := security.TLSFiles{Cert: flag("tls-cert"), Key: flag("tls-key")}
	if err := own.Validate(""); err != nil {
		return nil, usageError{err}
	}
	secure, err := own.Client(slog.New(slog.DiscardHandler), flag("tls-ca"))
	if err != nil {
		return nil, fmt.Errorf("--tls-ca, --tls-cert or --tls-key: %w", err)
	}
	token := flag("token")
	if file := flag("token-file"); token == "" && file != "" {
		b, err := os.ReadFile(file) //nolint:gosec // the user names the file, and reads it with own rights
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		token, _, _ = strings.Cut(strings.TrimSpace(string(b)), "\n")
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	next := security.NewTransport(secure, func(secure *tls.Config) *http.Transport {
		return &http.Transport{
			TLSClientConfig: secure, TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: 5 * time.Minute,
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			Protocols:   protocols,
			HTTP2:       &http.HTTP2Config{MaxReadFrameSize: 1 << 20, SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
		}
	})
	return &http.Client{Transport: &withToken{token: strings.TrimSpace(token), logical: servedAs(cmd), next: next}}, nil
}

// A withToken shows a token with each call.
type withToken struct {
	token   string
	logical string // whose door is to serve it; empty = that of who calls
	next    http.RoundTripper
}

// servedAs names the logical cluster whose own door has to serve a command: records and
// groups are gateways' work. The controller reads the names in the others.
func servedAs(cmd *cobra.Command) string {
	name, err := cmd.Flags().GetString("logical-cluster")
	if err != nil || !cmd.Flags().Changed("logical-cluster") {
		return ""
	}
	for c := cmd; c != nil; c = c.Parent() {
		if c.Name() == "produce" || c.Name() == "consume" || c.Name() == "group" {
			return name
		}
	}
	return ""
}

func (w *withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.token != "" || w.logical != "" {
		r = r.Clone(r.Context())
	}
	if w.logical != "" {
		r.Header.Set("Braid-Logical-Cluster", w.logical)
	}
	if w.token != "" {
		r.Header.Set("Authorization", "Bearer "+w.token)
	}
	return w.next.RoundTrip(r)
}

// call makes one call with the command's timeout and explains its error.
func call[Req, Resp any](ctx context.Context, a *api, f func(context.Context, *Req) (*Resp, error), req *Req) (*Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	resp, err := f(ctx, req)
	if err != nil {
		return nil, a.explain(ctx, err)
	}
	return resp, nil
}

// explain turns an error of a call into one that says what to do.
func (a *api) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return errors.New("interrupted")
	}
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return err
	}
	if !connect.IsWireError(err) {
		return a.unreachable(ctx, wire)
	}
	known := rpcerror.FromError(err)
	text := known.Error()
	if federation.KindOf(known).Retriable() && !strings.Contains(text, "again") {
		text += "; try again"
	}
	return errors.New(text)
}

func (a *api) unreachable(ctx context.Context, err *connect.Error) error {
	cause := err.Message()
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		cause = "unknown host " + dns.Name
	case errors.As(err, &op):
		cause = op.Err.Error()
	case errors.Is(ctx.Err(), context.DeadlineExceeded), err.Code() == connect.CodeDeadlineExceeded:
		cause = fmt.Sprintf("no answer in %s (--timeout)", a.timeout)
	}
	return fmt.Errorf("the braid API at %s cannot be reached: %s; start one with \"braid dev\", or name another with --api or BRAID_API", a.base, cause)
}

// elsewhere returns an api at the first of the addresses that a draining gateway
// named, or at the same one.
func (a *api) elsewhere(addresses []string) *api {
	if len(addresses) == 0 {
		return a
	}
	scheme, _, _ := strings.Cut(a.base, "://")
	return newClients(a.client, scheme+"://"+addresses[0], a.timeout)
}
