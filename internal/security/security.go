// Package security knows who a client is: principals, and what proves them.
package security

import (
	"context"
	"fmt"
	"strings"
)

// A Principal is who a client is, as Kafka names it: "User:alice"
// (org.apache.kafka.common.security.auth.KafkaPrincipal).
type Principal struct {
	Type string // "User" for all that a listener authenticates
	Name string
}

// UserType is the type of every principal that a listener authenticates.
const UserType = "User"

// Anonymous is who a client is on a listener that asks for no proof.
var Anonymous = User("ANONYMOUS")

// User is the principal of a user.
func User(name string) Principal { return Principal{Type: UserType, Name: name} }

func (p Principal) String() string { return p.Type + ":" + p.Name }

// ParsePrincipal reads "Type:name". The name may hold colons, as that of a
// certificate's subject does.
func ParsePrincipal(s string) (Principal, error) {
	kind, name, ok := strings.Cut(s, ":")
	if !ok || kind == "" || name == "" {
		return Principal{}, fmt.Errorf("principal %q is not of the form Type:name, such as User:alice", s)
	}
	return Principal{Type: kind, Name: name}, nil
}

type principalKey struct{}

// WithPrincipal returns a context of calls that p makes.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns who makes the call, Anonymous if the context does not say.
func PrincipalOf(ctx context.Context) Principal {
	if p, ok := ctx.Value(principalKey{}).(Principal); ok {
		return p
	}
	return Anonymous
}
