package federation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// ACLs are the access control entries of a map by id. As everything in a map, they are
// never changed in place.
type ACLs map[ACLID]*ACL

// An ACLID is made of what an ACL says: the same one twice has the same id.
type ACLID string

// An ACL allows or denies a principal an operation on resources, as Kafka's ACLs do
// (org.apache.kafka.common.acl.AclBinding).
type ACL struct {
	Resource   ACLResource
	Pattern    ACLPattern // ACLLiteral or ACLPrefixed
	Name       string     // ACLWildcard with ACLLiteral = all
	Principal  string     // Type:name; ACLAnyPrincipal = all
	Host       string     // an IP address; ACLWildcard = all
	Operation  ACLOperation
	Permission ACLPermission
	Tenant     string // whose resources and principals; empty = the deployment's own
}

// What stands for all in an ACL, and the one resource of the type cluster.
const (
	ACLWildcard     = "*"
	ACLAnyPrincipal = "User:*"
	ACLClusterName  = "kafka-cluster"
)

// aclTextMax bounds each text of an ACL.
const aclTextMax = 1024

// ACLResource is a type of resources; the numbers are those of the Kafka protocol, as
// are those of the other types here.
type ACLResource int8

// The types of resources. ACLAnyResource is for filters only.
const (
	ACLAnyResource ACLResource = iota + 1
	ACLTopic
	ACLGroup
	ACLCluster
	ACLTransactionalID
	ACLDelegationToken
	ACLUser
)

// ACLPattern says how the name of a resource is meant.
type ACLPattern int8

// The patterns. ACLAnyPattern and ACLMatch are for filters only: any pattern with just
// that name, and any that applies to a resource of that name.
const (
	ACLAnyPattern ACLPattern = iota + 1
	ACLMatch
	ACLLiteral
	ACLPrefixed
)

// ACLOperation is what a principal does with a resource.
type ACLOperation int8

// The operations. ACLAnyOperation is for filters only.
const (
	ACLAnyOperation ACLOperation = iota + 1
	ACLAll
	ACLRead
	ACLWrite
	ACLCreate
	ACLDelete
	ACLAlter
	ACLDescribe
	ACLClusterAction
	ACLDescribeConfigs
	ACLAlterConfigs
	ACLIdempotentWrite
	ACLCreateTokens
	ACLDescribeTokens
	ACLTwoPhaseCommit
)

// ACLPermission says whether an ACL allows or denies.
type ACLPermission int8

// The permissions. ACLAnyPermission is for filters only.
const (
	ACLAnyPermission ACLPermission = iota + 1
	ACLDeny
	ACLAllow
)

// Kafka's names, by number; of number 0 there is none.
var (
	aclResources   = [...]string{"UNKNOWN", "ANY", "TOPIC", "GROUP", "CLUSTER", "TRANSACTIONAL_ID", "DELEGATION_TOKEN", "USER"}
	aclPatterns    = [...]string{"UNKNOWN", "ANY", "MATCH", "LITERAL", "PREFIXED"}
	aclOperations  = [...]string{"UNKNOWN", "ANY", "ALL", "READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "CLUSTER_ACTION", "DESCRIBE_CONFIGS", "ALTER_CONFIGS", "IDEMPOTENT_WRITE", "CREATE_TOKENS", "DESCRIBE_TOKENS", "TWO_PHASE_COMMIT"}
	aclPermissions = [...]string{"UNKNOWN", "ANY", "DENY", "ALLOW"}
)

func aclName[T ~int8](names []string, v T) string {
	if v < 0 || int(v) >= len(names) {
		return names[0]
	}
	return names[v]
}

func (t ACLResource) String() string   { return aclName(aclResources[:], t) }
func (t ACLPattern) String() string    { return aclName(aclPatterns[:], t) }
func (o ACLOperation) String() string  { return aclName(aclOperations[:], o) }
func (p ACLPermission) String() string { return aclName(aclPermissions[:], p) }

// ID returns the id of an ACL.
func (a *ACL) ID() ACLID {
	b := fmt.Appendf(nil, "%d %d %d %d %q %q %q", a.Resource, a.Pattern, a.Operation, a.Permission, a.Name, a.Principal, a.Host)
	if a.Tenant != "" {
		b = fmt.Appendf(b, " %q", a.Tenant)
	}
	h := sha256.Sum256(b)
	return ACLID(hex.EncodeToString(h[:16]))
}

func (a *ACL) String() string {
	return fmt.Sprintf("%s %s from host %s to %s on %s %s %q", a.Permission, a.Principal, a.Host, a.Operation, a.Pattern, a.Resource, a.Name)
}

// Validate refuses what no broker would store (AclControlManager.validateNewAcl).
func (a *ACL) Validate() error {
	fail := func(f string, args ...any) error {
		return Errorf(InvalidArgument, "ACL on %s %q: %s", a.Resource, a.Name, fmt.Sprintf(f, args...))
	}
	kind, name, ok := strings.Cut(a.Principal, ":")
	switch {
	case a.Resource <= ACLAnyResource || int(a.Resource) >= len(aclResources):
		return fail("the resource type %d is none that an ACL can have", a.Resource)
	case a.Pattern != ACLLiteral && a.Pattern != ACLPrefixed:
		return fail("the pattern is %s; want LITERAL or PREFIXED", a.Pattern)
	case a.Operation <= ACLAnyOperation || int(a.Operation) >= len(aclOperations):
		return fail("the operation %d is none that an ACL can have", a.Operation)
	case a.Permission != ACLAllow && a.Permission != ACLDeny:
		return fail("the permission is %s; want ALLOW or DENY", a.Permission)
	case a.Name == "":
		return fail("the name is empty")
	case a.Resource == ACLCluster && a.Name != ACLClusterName:
		return fail("the only CLUSTER is %s", ACLClusterName)
	case !ok || kind == "" || name == "":
		return fail("principal %q is not of the form Type:name, such as User:alice", a.Principal)
	case a.Host == "":
		return fail("the host is empty; %s is any", ACLWildcard)
	case len(a.Name) > aclTextMax || len(a.Principal) > aclTextMax || len(a.Host) > aclTextMax:
		return fail("a text has more than %d bytes", aclTextMax)
	}
	return nil
}

// An ACLFilter selects ACLs (org.apache.kafka.common.acl.AclBindingFilter).
type ACLFilter struct {
	Resource              ACLResource
	Pattern               ACLPattern
	Name, Principal, Host *string // nil = any
	Operation             ACLOperation
	Permission            ACLPermission
	Tenant                string // selects those of one tenant, or of the deployment's own logical cluster
}

// Validate refuses filters that select nothing by mistake.
func (f *ACLFilter) Validate() error {
	fail := func(what string, v int8) error {
		return Errorf(InvalidArgument, "ACL filter: the %s %d is not known", what, v)
	}
	switch {
	case f.Resource < ACLAnyResource || int(f.Resource) >= len(aclResources):
		return fail("resource type", int8(f.Resource))
	case f.Pattern < ACLAnyPattern || f.Pattern > ACLPrefixed:
		return fail("pattern type", int8(f.Pattern))
	case f.Operation < ACLAnyOperation || int(f.Operation) >= len(aclOperations):
		return fail("operation", int8(f.Operation))
	case f.Permission < ACLAnyPermission || f.Permission > ACLAllow:
		return fail("permission", int8(f.Permission))
	}
	return nil
}

// Matches reports whether the filter selects an ACL.
func (f *ACLFilter) Matches(a *ACL) bool {
	return f.Tenant == a.Tenant && f.matchesResource(a) &&
		(f.Principal == nil || *f.Principal == a.Principal) &&
		(f.Host == nil || *f.Host == a.Host) &&
		(f.Operation == ACLAnyOperation || f.Operation == a.Operation) &&
		(f.Permission == ACLAnyPermission || f.Permission == a.Permission)
}

// matchesResource is ResourcePatternFilter.matches.
func (f *ACLFilter) matchesResource(a *ACL) bool {
	switch {
	case f.Resource != ACLAnyResource && f.Resource != a.Resource:
		return false
	case f.Pattern != ACLAnyPattern && f.Pattern != ACLMatch && f.Pattern != a.Pattern:
		return false
	case f.Name == nil:
		return true
	case f.Pattern != ACLMatch:
		return *f.Name == a.Name
	case a.Pattern == ACLLiteral:
		return *f.Name == a.Name || a.Name == ACLWildcard
	}
	return strings.HasPrefix(*f.Name, a.Name)
}
