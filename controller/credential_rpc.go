package controller

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/braidmq/braid/controller/planner"
	"github.com/braidmq/braid/federation"
	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
	"github.com/braidmq/braid/internal/rpcerror"
	"github.com/braidmq/braid/internal/security"
)

// credentialService keeps what users prove themselves with. It is in the map, so
// gateways have it at once, after a cold start, and after a recovery from the journals.
type credentialService struct{ c *Controller }

// CreateCredential gives a user a password.
func (s *credentialService) CreateCredential(ctx context.Context, req *adminv1.CreateCredentialRequest) (*adminv1.CreateCredentialResponse, error) {
	out, err := s.c.createCredential(ctx, req)
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	return out, nil
}

func (c *Controller) createCredential(ctx context.Context, req *adminv1.CreateCredentialRequest) (*adminv1.CreateCredentialResponse, error) {
	t, tenant, ids, err := c.credentialsOf(req.GetParent(), req.GetUser(), req.GetMechanisms())
	if err != nil {
		return nil, err
	}
	iterations := int(req.GetIterations())
	setDefault(&iterations, federation.ScramIterationsMin)
	out := &adminv1.CreateCredentialResponse{}
	password := req.GetPassword()
	if password == "" {
		password = security.NewSecret()
		out.Secret = password
	}
	out.BearerToken = security.SecretToken(federation.QualifyUser(tenant, req.GetUser()), password)
	set := make([]*federation.Credential, len(ids))
	for i, id := range ids {
		if set[i], err = security.NewCredential(id, password, iterations); err != nil {
			return nil, err
		}
		set[i].CreatedMs = time.Now().UnixMilli()
		out.Credentials = append(out.Credentials, credentialProto(set[i], tenant))
	}
	err = t.setCredentials(ctx, set, nil, func(m *federation.Map) error {
		for _, id := range ids {
			if m.Credential(id) != nil && !req.GetReplace() {
				return federation.Errorf(federation.TopicExists, "user %q has a credential of %s already; replace it, or revoke it first", id.User, id.Mechanism)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.log.Info("credential created", "user", req.GetUser(), "mechanisms", len(ids))
	return out, nil
}

// credentialsOf reads whose credentials a request is about; no mechanism stands for all.
func (c *Controller) credentialsOf(parent, user string, mechanisms []string) (*term, string, []federation.CredentialID, error) {
	t, err := c.leading()
	if err != nil {
		return nil, "", nil, err
	}
	tenant, err := t.parseParent(parent)
	if err != nil {
		return nil, "", nil, err
	}
	if err := federation.CheckUserName(user); err != nil {
		return nil, "", nil, err
	}
	if other, _ := t.current().SplitUser(user); tenant == "" && other != "" {
		return nil, "", nil, federation.Errorf(federation.InvalidArgument, "user %q: names that begin with %s/ are those of the users of tenant %q; name the logical cluster instead", user, other, other)
	}
	if tenant != "" && strings.HasPrefix(user, federation.QualifyUser(tenant, "")) {
		return nil, "", nil, federation.Errorf(federation.InvalidArgument, "user %q: the logical cluster is said already; name the user without it", user)
	}
	user = federation.QualifyUser(tenant, user)
	if err := federation.CheckUserName(user); err != nil {
		return nil, "", nil, err
	}
	if len(mechanisms) == 0 {
		mechanisms = []string{string(federation.ScramSHA256), string(federation.ScramSHA512)}
	}
	ids := make([]federation.CredentialID, 0, len(mechanisms))
	for _, name := range mechanisms {
		id := federation.CredentialID{User: user, Mechanism: federation.ScramMechanism(name)}
		if id.Mechanism.KeyBytes() == 0 {
			return nil, "", nil, federation.Errorf(federation.InvalidArgument, "user %q: mechanism %q: want %s or %s", user, name, federation.ScramSHA256, federation.ScramSHA512)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return t, tenant, ids, nil
}

// setCredentials changes credentials and waits until the gateways have the change, so
// that who is told of a password can use it. check sees the map before the change.
func (t *term) setCredentials(ctx context.Context, set []*federation.Credential, remove []federation.CredentialID, check func(*federation.Map) error) error {
	m, err := t.edit(ctx, func(m *federation.Map) (*federation.Map, error) {
		if err := check(m); err != nil {
			return nil, err
		}
		next := planner.WithCredentials(m, set, remove)
		if n := len(next.Credentials); n > t.cfg.CredentialsMax && n > len(m.Credentials) {
			return nil, federation.Errorf(federation.PolicyViolation, "there are %d credentials already, the most that a logical cluster can have; revoke some that nobody needs", len(m.Credentials))
		}
		if len(set) > 0 { // all are one user's
			tenant, _ := m.SplitUser(set[0].User)
			return next, planner.CheckTenantAccess(m, next, tenant, t.cfg.TenantLimits)
		}
		return next, nil
	})
	if err != nil {
		return err
	}
	t.awaitVisible(ctx, m.Version)
	return nil
}

func credentialProto(c *federation.Credential, tenant string) *adminv1.Credential {
	out := &adminv1.Credential{User: strings.TrimPrefix(c.User, federation.QualifyUser(tenant, "")), Mechanism: string(c.Mechanism), Iterations: c.Iterations}
	if c.CreatedMs > 0 {
		out.CreateTime = timestamppb.New(time.UnixMilli(c.CreatedMs))
	}
	return out
}

// ListCredentials returns a page of credentials, by user and mechanism.
func (s *credentialService) ListCredentials(_ context.Context, req *adminv1.ListCredentialsRequest) (*adminv1.ListCredentialsResponse, error) {
	t, err := s.c.leading()
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	tenant, err := t.parseParent(req.GetParent())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	var all []*federation.Credential
	m := t.current()
	for _, c := range m.Credentials {
		of, user := m.SplitUser(c.User)
		if of == tenant && (len(req.GetUsers()) == 0 || slices.Contains(req.GetUsers(), user)) {
			all = append(all, c)
		}
	}
	name := func(c *federation.Credential) string { return c.User + "\x00" + string(c.Mechanism) }
	slices.SortFunc(all, func(a, b *federation.Credential) int { return cmp.Compare(name(a), name(b)) })
	found, next, err := page(all, name, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.ListCredentialsResponse{NextPageToken: next}
	for _, c := range found {
		out.Credentials = append(out.Credentials, credentialProto(c, tenant))
	}
	return out, nil
}

// RevokeCredential takes credentials of a user away.
func (s *credentialService) RevokeCredential(ctx context.Context, req *adminv1.RevokeCredentialRequest) (*adminv1.RevokeCredentialResponse, error) {
	t, tenant, ids, err := s.c.credentialsOf(req.GetParent(), req.GetUser(), req.GetMechanisms())
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	out := &adminv1.RevokeCredentialResponse{}
	err = t.setCredentials(ctx, nil, ids, func(m *federation.Map) error {
		out.Credentials = nil
		for _, id := range ids {
			if c := m.Credential(id); c != nil {
				out.Credentials = append(out.Credentials, credentialProto(c, tenant))
			}
		}
		if len(out.GetCredentials()) == 0 {
			return errUnknownCredential(ids[0])
		}
		return nil
	})
	if err != nil {
		return nil, rpcerror.Error(err)
	}
	s.c.log.Info("credential revoked", "user", req.GetUser(), "mechanisms", len(out.GetCredentials()))
	return out, nil
}

func errUnknownCredential(id federation.CredentialID) error {
	return federation.Errorf(federation.UnknownCredential, "user %q has no credential of %s; `braid credential list` shows those that are there", id.User, id.Mechanism)
}

// AlterCredentials sets and removes credentials of a user together.
func (s *credentialService) AlterCredentials(ctx context.Context, req *adminv1.AlterCredentialsRequest) (*adminv1.AlterCredentialsResponse, error) {
	if err := s.c.alterCredentials(ctx, req); err != nil {
		return nil, rpcerror.Error(err)
	}
	return &adminv1.AlterCredentialsResponse{}, nil
}

func (c *Controller) alterCredentials(ctx context.Context, req *adminv1.AlterCredentialsRequest) error {
	if len(req.GetUpserts()) == 0 && len(req.GetRemovals()) == 0 {
		return federation.Errorf(federation.InvalidArgument, "user %q: nothing is to be set or removed", req.GetUser())
	}
	var mechanisms []string
	for _, u := range req.GetUpserts() {
		mechanisms = append(mechanisms, u.GetMechanism())
	}
	named := len(mechanisms) + len(req.GetRemovals())
	t, _, ids, err := c.credentialsOf(req.GetParent(), req.GetUser(), append(mechanisms, req.GetRemovals()...))
	if err != nil {
		return err
	}
	if len(ids) != named {
		return federation.Errorf(federation.InvalidArgument, "user %q: a mechanism is named twice", req.GetUser())
	}
	set := make([]*federation.Credential, len(req.GetUpserts()))
	for i, u := range req.GetUpserts() {
		set[i] = &federation.Credential{
			CredentialID: ids[i], Salt: u.GetSalt(), Iterations: u.GetIterations(), StoredKey: u.GetStoredKey(), ServerKey: u.GetServerKey(), CreatedMs: time.Now().UnixMilli(),
		}
		if err := set[i].Validate(); err != nil {
			return err
		}
	}
	remove := ids[len(set):]
	err = t.setCredentials(ctx, set, remove, func(m *federation.Map) error {
		for _, id := range remove {
			if m.Credential(id) == nil {
				return errUnknownCredential(id)
			}
		}
		return nil
	})
	if err == nil {
		c.log.Info("credentials changed", "user", req.GetUser(), "set", len(set), "removed", len(remove))
	}
	return err
}
