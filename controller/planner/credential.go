package planner

import (
	"maps"

	"github.com/braidmq/braid/federation"
)

// WithCredentials returns the map with some credentials added or replaced, and some
// removed.
func WithCredentials(m *federation.Map, set []*federation.Credential, remove []federation.CredentialID) *federation.Map {
	next := *m
	next.Credentials = maps.Clone(m.Credentials)
	if next.Credentials == nil {
		next.Credentials = make(map[federation.CredentialID]*federation.Credential)
	}
	for _, id := range remove {
		delete(next.Credentials, id)
	}
	for _, c := range set {
		next.Credentials[c.CredentialID] = c
	}
	return next.Seal()
}
