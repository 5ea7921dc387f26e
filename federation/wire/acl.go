package wire

import (
	"maps"
	"math"
	"reflect"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

// ACLKey returns the key of an ACL's entry.
func ACLKey(id federation.ACLID) string { return prefixACL + string(id) }

func aclEntry(a *federation.ACL, version int64) *controlv1.MapEntry {
	return &controlv1.MapEntry{Key: ACLKey(a.ID()), Version: version, Value: &controlv1.MapEntry_Acl{Acl: &controlv1.AclEntry{
		ResourceType:   int32(a.Resource),
		PatternType:    int32(a.Pattern),
		ResourceName:   a.Name,
		Principal:      a.Principal,
		Host:           a.Host,
		Operation:      int32(a.Operation),
		PermissionType: int32(a.Permission),
		Tenant:         a.Tenant,
	}}}
}

// diffACLs compares by id alone: an id is made of all that an ACL says. Maps that share
// their ACLs, as most do, are not looked through.
func (d *Delta) diffACLs(from, to *federation.Map) {
	if reflect.ValueOf(from.ACLs).UnsafePointer() == reflect.ValueOf(to.ACLs).UnsafePointer() {
		return
	}
	for id, a := range to.ACLs {
		if from.ACLs[id] == nil {
			d.Upserts = append(d.Upserts, aclEntry(a, int64(d.To)))
		}
	}
	for id := range from.ACLs {
		if to.ACLs[id] == nil {
			d.Deletes = append(d.Deletes, ACLKey(id))
		}
	}
}

func (e *edit) acls() federation.ACLs {
	if !e.ownACLs {
		e.ownACLs = true
		e.m.ACLs = maps.Clone(e.m.ACLs)
		if e.m.ACLs == nil {
			e.m.ACLs = make(federation.ACLs)
		}
	}
	return e.m.ACLs
}

func (e *edit) setACL(key string, entry *controlv1.AclEntry) error {
	a := &federation.ACL{
		Resource: federation.ACLResource(number(entry.GetResourceType())), Pattern: federation.ACLPattern(number(entry.GetPatternType())), Name: entry.GetResourceName(),
		Principal: entry.GetPrincipal(), Host: entry.GetHost(),
		Operation: federation.ACLOperation(number(entry.GetOperation())), Permission: federation.ACLPermission(number(entry.GetPermissionType())),
		Tenant: entry.GetTenant(),
	}
	if err := a.Validate(); err != nil {
		return err
	}
	if key != ACLKey(a.ID()) {
		return errKey
	}
	e.acls()[a.ID()] = a
	return nil
}

// number makes 0, which nothing has, of what does not fit.
func number(v int32) int8 {
	if v < 0 || v > math.MaxInt8 {
		return 0
	}
	return int8(v)
}
