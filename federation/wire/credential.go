package wire

import (
	"bytes"
	"fmt"
	"maps"
	"strings"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

const prefixCredential = "credential/" //nolint:gosec // how a key begins

// CredentialKey returns the key of a credential's entry. A mechanism has no slash, a
// user's name may have some.
func CredentialKey(id federation.CredentialID) string {
	return prefixCredential + id.User + "/" + string(id.Mechanism)
}

func credentialEntry(c *federation.Credential, version int64) *controlv1.MapEntry {
	return &controlv1.MapEntry{Key: CredentialKey(c.CredentialID), Version: version, Value: &controlv1.MapEntry_Credential{Credential: &controlv1.CredentialEntry{
		User:       c.User,
		Mechanism:  string(c.Mechanism),
		Salt:       c.Salt,
		Iterations: c.Iterations,
		StoredKey:  c.StoredKey,
		ServerKey:  c.ServerKey,
		CreatedMs:  c.CreatedMs,
	}}}
}

func decodeCredential(c *controlv1.CredentialEntry) (*federation.Credential, error) {
	out := &federation.Credential{
		CredentialID: federation.CredentialID{User: c.GetUser(), Mechanism: federation.ScramMechanism(c.GetMechanism())},
		Salt:         bytes.Clone(c.GetSalt()),
		Iterations:   c.GetIterations(),
		StoredKey:    bytes.Clone(c.GetStoredKey()),
		ServerKey:    bytes.Clone(c.GetServerKey()),
		CreatedMs:    c.GetCreatedMs(),
	}
	return out, out.Validate()
}

func (d *Delta) diffCredentials(from, to *federation.Map) {
	for id, c := range to.Credentials {
		if old := from.Credentials[id]; old != c && (old == nil || !old.Equal(c)) {
			d.Upserts = append(d.Upserts, credentialEntry(c, int64(d.To)))
		}
	}
	for id := range from.Credentials {
		if to.Credentials[id] == nil {
			d.Deletes = append(d.Deletes, CredentialKey(id))
		}
	}
}

func (e *edit) credentials() map[federation.CredentialID]*federation.Credential {
	if !e.ownCreds {
		e.ownCreds = true
		e.m.Credentials = maps.Clone(e.m.Credentials)
	}
	if e.m.Credentials == nil {
		e.m.Credentials = make(map[federation.CredentialID]*federation.Credential)
	}
	return e.m.Credentials
}

func (e *edit) setCredential(key string, entry *controlv1.CredentialEntry) error {
	c, err := decodeCredential(entry)
	if err != nil {
		return err
	}
	if key != CredentialKey(c.CredentialID) {
		return errKey
	}
	e.credentials()[c.CredentialID] = c
	return nil
}

func (e *edit) removeCredential(key string) error {
	rest := key[len(prefixCredential):]
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return fmt.Errorf("delete of %q: bad key", key)
	}
	all := e.credentials()
	delete(all, federation.CredentialID{User: rest[:i], Mechanism: federation.ScramMechanism(rest[i+1:])})
	if len(all) == 0 {
		e.m.Credentials = nil // as in a map that never had one
	}
	return nil
}
