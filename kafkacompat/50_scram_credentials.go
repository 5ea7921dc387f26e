package kafkacompat

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
	"github.com/braidmq/braid/internal/security"
)

// DescribeUserScramCredentials, AlterUserScramCredentials: v0
//
// The tools send a salted password; what is kept is derived from it here, so it goes no
// further. A change is answered when the gateways have it.

// Credentials changes what users prove themselves with: the control plane as this door
// needs it. Errors are as those of Admin.
type Credentials interface {
	// AlterCredentials sets and removes credentials of a user together: UnknownCredential,
	// InvalidArgument.
	AlterCredentials(ctx context.Context, user string, set []*federation.Credential, remove []federation.ScramMechanism) error
}

// scramMechanisms are Kafka's numbers of the mechanisms (ScramMechanism.java).
var scramMechanisms = map[int8]federation.ScramMechanism{1: federation.ScramSHA256, 2: federation.ScramSHA512}

func handleDescribeUserSCRAM(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeUserSCRAMCredentialsResponse)
	if resp.ErrorCode = req.mayCluster(ctx, acl.Describe); resp.ErrorCode != 0 {
		resp.ErrorMessage = deniedMessage(resp.ErrorCode)
		return resp
	}
	m := c.s.mapOrNil()
	if m == nil {
		err := federation.Errorf(federation.NotLeader, "this gateway has no map yet; try again")
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	asked := make(map[string]int)
	for _, u := range kreq.Users {
		asked[u.Name]++
	}
	if len(kreq.Users) == 0 {
		for id := range m.Credentials {
			asked[id.User] = 1
		}
	}
	const userBytes = 256
	if err := req.room(ctx, c, int64(len(asked))*userBytes); err != nil {
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	for _, user := range slices.Sorted(maps.Keys(asked)) {
		r := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		r.User = user
		for _, n := range slices.Sorted(maps.Keys(scramMechanisms)) {
			if cred := m.Credential(federation.CredentialID{User: user, Mechanism: scramMechanisms[n]}); cred != nil {
				info := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
				info.Mechanism, info.Iterations = n, cred.Iterations
				r.CredentialInfos = append(r.CredentialInfos, info)
			}
		}
		switch {
		case asked[user] > 1:
			r.CredentialInfos = nil
			r.ErrorCode, r.ErrorMessage = req.refuse(kerr.DuplicateResource), new(fmt.Sprintf("user %q is in the request more than once", user))
		case len(r.CredentialInfos) == 0:
			r.ErrorCode, r.ErrorMessage = req.refuse(kerr.ResourceNotFound), new(fmt.Sprintf("user %q has no SCRAM credential", user))
		}
		resp.Results = append(resp.Results, r)
	}
	return resp
}

// A scramChange is what a request wants of one user.
type scramChange struct {
	set    []*federation.Credential
	remove []federation.ScramMechanism
	named  []federation.ScramMechanism
	refuse *kerr.Error
	why    string
}

func (s *scramChange) refused(e *kerr.Error, format string, args ...any) {
	if s.refuse == nil {
		s.refuse, s.why = e, fmt.Sprintf(format, args...)
	}
}

// name notes that a mechanism is to be changed; false if it cannot be.
func (s *scramChange) name(user string, mechanism int8) (id federation.CredentialID, ok bool) {
	m, known := scramMechanisms[mechanism]
	switch {
	case !known:
		s.refused(kerr.UnsupportedSaslMechanism, "user %q: SCRAM mechanism %d is not known", user, mechanism)
	case slices.Contains(s.named, m):
		s.refused(kerr.DuplicateResource, "user %q: a credential of %s cannot be altered twice in one request", user, m)
	default:
		s.named = append(s.named, m)
		return federation.CredentialID{User: user, Mechanism: m}, true
	}
	return id, false
}

func scramChanges(kreq *kmsg.AlterUserSCRAMCredentialsRequest) map[string]*scramChange {
	changes := make(map[string]*scramChange)
	of := func(user string) *scramChange {
		if changes[user] == nil {
			changes[user] = &scramChange{}
		}
		return changes[user]
	}
	for _, d := range kreq.Deletions {
		s := of(d.Name)
		if id, ok := s.name(d.Name, d.Mechanism); ok {
			s.remove = append(s.remove, id.Mechanism)
		}
	}
	for _, u := range kreq.Upsertions {
		s := of(u.Name)
		id, ok := s.name(u.Name, u.Mechanism)
		if !ok {
			continue
		}
		cred, err := security.CredentialOfSalted(id, u.Salt, int(u.Iterations), u.SaltedPassword)
		if err != nil {
			s.refused(kerr.UnacceptableCredential, "%s", err)
			continue
		}
		s.set = append(s.set, cred)
	}
	return changes
}

func handleAlterUserSCRAM(ctx context.Context, c *conn, req *request, kreq *kmsg.AlterUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
	changes := scramChanges(kreq)
	denied := req.mayCluster(ctx, acl.Alter)
	for _, user := range slices.Sorted(maps.Keys(changes)) {
		s := changes[user]
		r := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		r.User = user
		switch {
		case denied != 0:
			r.ErrorCode, r.ErrorMessage = denied, deniedMessage(denied)
		case s.refuse != nil:
			r.ErrorCode, r.ErrorMessage = req.refuse(s.refuse), &s.why
		default:
			err := c.s.deps.Credentials.AlterCredentials(ctx, user, s.set, s.remove)
			req.changed(ctx, acl.Alter, acl.Cluster, fmt.Sprintf("credentials of user %q", user), err)
			r.ErrorCode, r.ErrorMessage = req.fail(err), message(err)
		}
		resp.Results = append(resp.Results, r)
	}
	return resp
}
