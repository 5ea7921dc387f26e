package embedded_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/internal/redisstore"
)

// auditLines are the lines of the audit logs of all processes.
type auditLines struct {
	mu  sync.Mutex // guards the following
	all bytes.Buffer
}

// Write implements io.Writer.
func (l *auditLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if bytes.Contains(b, []byte("logger=audit")) {
		l.all.Write(b)
	}
	return len(b), nil
}

// take returns what was logged since it was asked last.
func (l *auditLines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSpace(l.all.String())
	l.all.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// Each change is in one audit log: in that of the process that knows whom it is for.
func TestChangesAtAControllersPortAreInItsAuditLog(t *testing.T) {
	var lines auditLines
	f := embedded.New(t, embedded.Options{
		Controllers: 2, Gateways: 1, Brokers: 1, FleetToken: fleetToken, Logger: slog.New(slog.NewTextHandler(&lines, nil)),
	})
	lines.take()
	acls := func(client *http.Client, url string) error {
		_, err := adminv1connect.NewAclServiceClient(client, url).CreateAcls(t.Context(), &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{
			ResourceType: adminv1.Acl_RESOURCE_TYPE_TOPIC, ResourceName: "orders", Principal: "User:alice", Operation: adminv1.Acl_OPERATION_READ,
		}}})
		return err
	}
	one := func(want ...string) {
		t.Helper()
		got := lines.take()
		require.Len(t, got, 1)
		for _, w := range want {
			require.Contains(t, got[0], w)
		}
	}
	change := []string{"audit.api=/braid.admin.v1.AclService/CreateAcls", "audit.operation=ALTER", "audit.resource=CLUSTER", "audit.host=127.0.0.1", "User:alice"}

	for _, c := range f.Controllers() { // the leader, and one that passes it on
		require.NoError(t, acls(f.Client, c.URL()))
		one(append(change, "role=controller", "msg=change", "audit.principal=User:braid-fleet", "audit.outcome=done")...)

		requireUnauthenticated(t, acls(as(t, ""), c.URL()))
		one("role=controller", "msg=denied", "audit.principal=User:ANONYMOUS", "audit.host=127.0.0.1", "audit.api=/braid.admin.v1.AclService/CreateAcls", "audit.operation=CLUSTER_ACTION")

		_, err := adminv1connect.NewAclServiceClient(f.Client, c.URL()).ListAcls(t.Context(), &adminv1.ListAclsRequest{})
		require.NoError(t, err)
		require.Empty(t, lines.take(), "who looks changes nothing")

		_, err = adminv1connect.NewTopicServiceClient(f.Client, c.URL()).DeleteTopic(t.Context(), &adminv1.DeleteTopicRequest{Name: "logicalClusters/default/topics/none"})
		require.Equal(t, connect.CodeNotFound, connect.CodeOf(err))
		one("role=controller", "msg=change", "audit.operation=DELETE", "audit.resource=TOPIC", "audit.name=none", `audit.outcome="`)
	}
	require.NoError(t, acls(f.Client, f.APIURL()))
	one(append(change, "role=gateway", "audit.principal=User:braid-fleet")...)
	require.NoError(t, acls(as(t, ""), f.APIURL()))
	one(append(change, "role=gateway", "audit.principal=User:ANONYMOUS")...)
}

// A change that a take-over breaks off is in the audit log once: where it is made then, or
// with the error that the caller gets.
func TestBrokenOffChangesAreAuditedOnce(t *testing.T) {
	var lines auditLines
	f := embedded.New(t, embedded.Options{
		Brokers: 1, Logger: slog.New(slog.NewTextHandler(&lines, nil)),
		Configure: func(c *process.Config, _ int) {
			// It does not find out by itself that another one has led.
			c.Controller.LeaseTTL, c.Controller.RenewInterval, c.Controller.GatewayLease = 2*time.Minute, time.Minute, 5*time.Minute
			c.Controller.ForwardWait = 2 * time.Second
		},
	})
	store, err := redisstore.Open(redisstore.Config{URL: f.RedisURL()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	// other has another controller lead, and returns its number.
	other := func() int64 {
		l, ok, err := store.Leader(t.Context(), "default")
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, store.ReleaseLeadership(t.Context(), "default", l.Fencing))
		l, ok, err = store.AcquireLeadership(t.Context(), "default", redisstore.Candidate{ID: "x", URL: "http://127.0.0.1:1"}, time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		return l.Fencing
	}
	allow := func(user string) error {
		_, err := adminv1connect.NewAclServiceClient(f.Client, f.Controllers()[0].URL()).CreateAcls(t.Context(), &adminv1.CreateAclsRequest{Acls: []*adminv1.Acl{{
			ResourceType: adminv1.Acl_RESOURCE_TYPE_TOPIC, ResourceName: "orders", Principal: user, Operation: adminv1.Acl_OPERATION_READ,
		}}})
		return err
	}
	require.NoError(t, store.ReleaseLeadership(t.Context(), "default", other()))
	lines.take()
	require.NoError(t, allow("User:alice"))
	got := lines.take()
	require.Len(t, got, 1, "it is made again here")
	require.Contains(t, got[0], "audit.outcome=done")

	other()
	require.Error(t, allow("User:bob"))
	got = lines.take()
	require.Len(t, got, 1, "nobody makes it")
	require.Contains(t, got[0], `audit.outcome="no controller leads`)
	require.Contains(t, got[0], "User:bob")
}
