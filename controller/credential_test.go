package controller_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/controller"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/gen/braid/admin/v1/adminv1connect"
	"github.com/braidmq/braid/internal/security"
)

func TestCredentials(t *testing.T) {
	w := newWorld(t)
	c := w.controller(t, "c1", func(c *controller.Config) { c.CredentialsMax = 3 })
	transport := h2c(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client := adminv1connect.NewCredentialServiceClient(&http.Client{Transport: transport}, c.url)
	ctx := t.Context()

	created, err := client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "alice"})
	require.NoError(t, err)
	require.Len(t, created.GetCredentials(), 2)
	require.Len(t, created.GetSecret(), 52)
	requireKind(t, federation.TopicExists, second(client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "alice"})))
	requireKind(t, federation.InvalidArgument, second(client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "bob", Iterations: 9})))
	requireKind(t, federation.InvalidArgument, second(client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "bob", Mechanisms: []string{"MD5"}})))
	requireKind(t, federation.InvalidArgument, second(client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{})))
	requireKind(t, federation.PolicyViolation, second(client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "bob"})))

	// What is stored proves the password, and survives in the store.
	m, err := w.store(t, nil).LoadMap(ctx, "default")
	require.NoError(t, err)
	a := security.NewAuthenticator(nil, m.Credential, nil)
	id, err := a.CheckToken(ctx, created.GetBearerToken())
	require.NoError(t, err)
	require.Equal(t, security.User("alice"), id.Principal)
	_, err = a.CheckPassword(ctx, "alice", created.GetSecret())
	require.NoError(t, err)

	replaced, err := client.CreateCredential(ctx, &adminv1.CreateCredentialRequest{User: "alice", Password: "secret", Replace: true, Iterations: 5000})
	require.NoError(t, err)
	require.Empty(t, replaced.GetSecret())

	list, err := client.ListCredentials(ctx, &adminv1.ListCredentialsRequest{PageSize: 1})
	require.NoError(t, err)
	require.Len(t, list.GetCredentials(), 1)
	require.EqualValues(t, 5000, list.GetCredentials()[0].GetIterations())
	list, err = client.ListCredentials(ctx, &adminv1.ListCredentialsRequest{PageToken: list.GetNextPageToken(), Users: []string{"alice"}})
	require.NoError(t, err)
	require.Equal(t, "SCRAM-SHA-512", list.GetCredentials()[0].GetMechanism())
	list, err = client.ListCredentials(ctx, &adminv1.ListCredentialsRequest{Users: []string{"bob"}})
	require.NoError(t, err)
	require.Empty(t, list.GetCredentials())

	testAlter(t, client)
	revoked, err := client.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{User: "alice"})
	require.NoError(t, err)
	require.Len(t, revoked.GetCredentials(), 1)
	requireKind(t, federation.UnknownCredential, second(client.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{User: "alice"})))
}

func testAlter(t *testing.T, client adminv1connect.CredentialServiceClient) {
	t.Helper()
	cred, err := security.NewCredential(federation.CredentialID{User: "alice", Mechanism: federation.ScramSHA256}, "other", 4096)
	require.NoError(t, err)
	v := &adminv1.ScramVerifier{Mechanism: "SCRAM-SHA-256", Iterations: 4096, Salt: cred.Salt, StoredKey: cred.StoredKey, ServerKey: cred.ServerKey}
	alter := func(req *adminv1.AlterCredentialsRequest) error {
		req.User = "alice"
		return second(client.AlterCredentials(t.Context(), req))
	}
	requireKind(t, federation.InvalidArgument, alter(&adminv1.AlterCredentialsRequest{}))
	requireKind(t, federation.InvalidArgument, alter(&adminv1.AlterCredentialsRequest{Upserts: []*adminv1.ScramVerifier{v}, Removals: []string{"SCRAM-SHA-256"}}))
	requireKind(t, federation.InvalidArgument, alter(&adminv1.AlterCredentialsRequest{Upserts: []*adminv1.ScramVerifier{{Mechanism: "SCRAM-SHA-256", Iterations: 4096}}}))
	require.NoError(t, alter(&adminv1.AlterCredentialsRequest{Upserts: []*adminv1.ScramVerifier{v}, Removals: []string{"SCRAM-SHA-512"}}))
	requireKind(t, federation.UnknownCredential, alter(&adminv1.AlterCredentialsRequest{Removals: []string{"SCRAM-SHA-512"}}))
}

func second[T any](_ T, err error) error { return err }
