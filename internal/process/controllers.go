package process

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/redisstore"
)

// controllersBase is the base URL of clients that go through controllers.
const controllersBase = "http://controller.invalid"

// lookupTimeout bounds one question to Redis for who leads.
const lookupTimeout = time.Second

// controllers sends requests to a controller that lives: the one that answered
// last, else the leader that Redis knows, else one that is configured. Any will
// do, as those that do not lead pass requests on. It is safe for concurrent use.
type controllers struct {
	configured     []string
	store          *redisstore.Store // may be nil
	logicalCluster string
	id             string // of this process, which has what its clients change in its audit log
	next           http.RoundTripper

	mu   sync.Mutex // guards the following
	good string
}

// RoundTrip sends a request to the first controller that a connection can be
// made to. Its errors are of kind NotLeader, or those of the request's context.
func (c *controllers) RoundTrip(req *http.Request) (*http.Response, error) {
	body := &heldBody{ReadCloser: req.Body}
	tried := make([]string, 0, 4)
	for _, find := range []func(context.Context) []string{c.last, c.leader, c.all} {
		for _, base := range find(req.Context()) {
			if slices.Contains(tried, base) {
				continue
			}
			tried = append(tried, base)
			resp, err := c.try(req, base, body)
			if err == nil {
				c.remember(base)
				body.letGo(false)
				return resp, nil
			}
			c.forget(base)
			var op *net.OpError
			if body.used() || req.Context().Err() != nil || !errors.As(err, &op) || op.Op != "dial" {
				body.letGo(true)
				if req.Context().Err() != nil {
					return nil, err
				}
				return nil, federation.Errorf(federation.NotLeader, "the controller went away before it answered; try again").WithCause(err)
			}
		}
	}
	body.letGo(true)
	return nil, federation.Errorf(federation.NotLeader, "no controller answers; start one with \"braid controller\", or wait for it to come back")
}

func (c *controllers) try(req *http.Request, base string, body *heldBody) (*http.Response, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	to := req.Clone(req.Context())
	to.URL.Scheme, to.URL.Host, to.Host = u.Scheme, u.Host, u.Host
	to.URL.Path = strings.TrimRight(u.Path, "/") + req.URL.Path
	to.Header.Set(headerAudited, c.id)
	if req.Body != nil {
		to.Body = body
	}
	return c.next.RoundTrip(to)
}

func (c *controllers) last(context.Context) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == "" {
		return nil
	}
	return []string{c.good}
}

func (c *controllers) leader(ctx context.Context) []string {
	if c.store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	l, ok, err := c.store.Leader(ctx, c.logicalCluster)
	if err != nil || !ok {
		return nil
	}
	return []string{l.URL}
}

// all returns the configured controllers, and those that Redis lists.
func (c *controllers) all(ctx context.Context) []string {
	urls := slices.Clone(c.configured)
	if c.store == nil {
		return urls
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	infos, err := c.store.Controllers(ctx, c.logicalCluster)
	if err != nil {
		return urls
	}
	for _, i := range infos {
		urls = append(urls, i.URL)
	}
	return urls
}

func (c *controllers) remember(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good = base
}

func (c *controllers) forget(base string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == base {
		c.good = ""
	}
}

// A heldBody is a request's body that a failed attempt does not close, so that the
// next one can send it, if nothing was read of it.
type heldBody struct {
	io.ReadCloser

	mu     sync.Mutex // guards the following
	read   bool
	gone   bool // no further attempt: closes pass
	closed bool // somebody closed it meanwhile
}

func (b *heldBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	return b.ReadCloser.Read(p)
}

func (b *heldBody) Close() error {
	b.mu.Lock()
	b.closed = true
	pass := b.gone || b.read
	b.mu.Unlock()
	if !pass {
		return nil
	}
	return b.ReadCloser.Close()
}

func (b *heldBody) used() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}

// letGo says that no further attempt follows; a close that was held back, or that
// is asked for now, is done.
func (b *heldBody) letGo(now bool) {
	if b.ReadCloser == nil {
		return
	}
	b.mu.Lock()
	b.gone = true
	now = now || b.closed
	b.mu.Unlock()
	if now {
		_ = b.ReadCloser.Close()
	}
}

// clients of the services of controllers.
type controllerClients struct {
	topics     adminv1connect.TopicServiceClient
	clusters   adminv1connect.ClusterServiceClient
	fleet      adminv1connect.FleetServiceClient
	operations adminv1connect.OperationServiceClient
	acls       adminv1connect.AclServiceClient
	quotas     adminv1connect.QuotaServiceClient
	groups     adminv1connect.GroupConfigServiceClient
	creds      adminv1connect.CredentialServiceClient
	tenants    adminv1connect.TenantServiceClient
}

func (c *controllers) clients(opts ...connect.ClientOption) controllerClients {
	client := &http.Client{Transport: c}
	return controllerClients{
		topics:     adminv1connect.NewTopicServiceClient(client, controllersBase, opts...),
		clusters:   adminv1connect.NewClusterServiceClient(client, controllersBase, opts...),
		fleet:      adminv1connect.NewFleetServiceClient(client, controllersBase, opts...),
		operations: adminv1connect.NewOperationServiceClient(client, controllersBase, opts...),
		acls:       adminv1connect.NewAclServiceClient(client, controllersBase, opts...),
		quotas:     adminv1connect.NewQuotaServiceClient(client, controllersBase, opts...),
		groups:     adminv1connect.NewGroupConfigServiceClient(client, controllersBase, opts...),
		creds:      adminv1connect.NewCredentialServiceClient(client, controllersBase, opts...),
		tenants:    adminv1connect.NewTenantServiceClient(client, controllersBase, opts...),
	}
}

// clientOptions are those of all clients of other processes.
func clientOptions(observe connect.Interceptor) []connect.ClientOption {
	return []connect.ClientOption{connect.WithInterceptors(observe), connect.WithReadMaxBytes(readBytesMax)}
}

// newTransport speaks HTTP/2 to other processes of braid, without TLS by prior
// knowledge.
func newTransport(dial func(ctx context.Context, network, address string) (net.Conn, error), secure *tls.Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		DialContext: dial, Protocols: protocols, TLSClientConfig: secure, TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: 5 * time.Minute,
		HTTP2: &http.HTTP2Config{MaxReadFrameSize: 1 << 20, SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 30 * time.Second},
	}
}
