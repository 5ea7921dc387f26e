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
)

// DescribeClientQuotas, AlterClientQuotas: v0-v1
//
// Quotas are entries of the map: the controller changes them, every gateway has them, and
// holds clients to them by itself, as each broker of Kafka does. A change is answered when
// this gateway's map has it. What is refused, and how, is as in ClientQuotaControlManager
// and ClientQuotasImage.
//
// Version notes:
// * v1: flexible

// The parts of an entity, by Kafka's names.
const (
	quotaUser     = "user"
	quotaClientID = "client-id"
	quotaIP       = "ip"
)

// How a component of a filter matches (DescribeClientQuotasRequest).
const (
	quotaMatchExact   = 0
	quotaMatchDefault = 1
	quotaMatchAny     = 2
)

// quotaPart returns the part of an entity that has one of Kafka's names; nil if none has.
func quotaPart(e *federation.QuotaEntity, name string) *federation.QuotaName {
	switch name {
	case quotaUser:
		return &e.User
	case quotaClientID:
		return &e.ClientID
	case quotaIP:
		return &e.IP
	default:
		return nil
	}
}

var quotaParts = [...]string{quotaUser, quotaClientID, quotaIP}

// A quotaFilter selects quotas: of each part that is filtered, those that match.
type quotaFilter struct {
	parts  map[string]kmsg.DescribeClientQuotasRequestComponent
	strict bool // no other part may be there
}

func newQuotaFilter(kreq *kmsg.DescribeClientQuotasRequest) (*quotaFilter, *kerr.Error, string) {
	f := &quotaFilter{parts: make(map[string]kmsg.DescribeClientQuotasRequestComponent, len(kreq.Components)), strict: kreq.Strict}
	for _, part := range kreq.Components {
		_, twice := f.parts[part.EntityType]
		switch {
		case part.EntityType == "":
			return nil, kerr.InvalidRequest, "Unexpected empty filter component entity type"
		case quotaPart(&federation.QuotaEntity{}, part.EntityType) == nil:
			return nil, kerr.UnsupportedVersion, fmt.Sprintf("Custom entity type '%s' not supported", part.EntityType)
		case twice:
			return nil, kerr.InvalidRequest, fmt.Sprintf("Entity type %s cannot appear more than once in the filter.", part.EntityType)
		case part.MatchType < quotaMatchExact || part.MatchType > quotaMatchAny:
			return nil, kerr.InvalidRequest, fmt.Sprintf("Unknown match type %d", part.MatchType)
		case part.MatchType == quotaMatchExact && part.Match == nil:
			return nil, kerr.InvalidRequest, "Request specified MATCH_TYPE_EXACT, but set match string to null."
		case part.MatchType != quotaMatchExact && part.Match != nil:
			return nil, kerr.InvalidRequest, "A match string is for MATCH_TYPE_EXACT only."
		}
		f.parts[part.EntityType] = part
	}
	if _, ip := f.parts[quotaIP]; ip && len(f.parts) > 1 {
		return nil, kerr.InvalidRequest, "Invalid entity filter component combination. IP filter component should not be used with user or clientId filter component."
	}
	return f, nil, ""
}

func (f *quotaFilter) matches(e federation.QuotaEntity) bool {
	for _, what := range quotaParts {
		have := quotaPart(&e, what)
		want, filtered := f.parts[what]
		switch {
		case !filtered:
			if have.Set && f.strict {
				return false
			}
		case !have.Set,
			want.MatchType == quotaMatchExact && (have.Name == "" || have.Name != *want.Match),
			want.MatchType == quotaMatchDefault && have.Name != "":
			return false
		}
	}
	return true
}

func handleDescribeClientQuotas(ctx context.Context, c *conn, req *request, kreq *kmsg.DescribeClientQuotasRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.DescribeClientQuotasResponse)
	if resp.ErrorCode = req.mayCluster(ctx, acl.DescribeConfigs); resp.ErrorCode != 0 {
		resp.ErrorMessage = deniedMessage(resp.ErrorCode)
		return resp
	}
	m := c.s.mapOrNil()
	if m == nil {
		err := federation.Errorf(federation.NotLeader, "this gateway has no map yet; try again")
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	filter, refused, why := newQuotaFilter(kreq)
	if refused != nil {
		resp.ErrorCode, resp.ErrorMessage = req.refuse(refused), &why
		return resp
	}
	const quotaBytes = 512
	if err := req.room(ctx, c, int64(len(m.Quotas))*quotaBytes); err != nil {
		resp.ErrorCode, resp.ErrorMessage = req.fail(err), message(err)
		return resp
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{} // null is for errors
	for _, q := range m.Quotas.Sorted() {
		if !filter.matches(q.Entity) {
			continue
		}
		entry := kmsg.NewDescribeClientQuotasResponseEntry()
		for _, what := range quotaParts {
			if n := quotaPart(&q.Entity, what); n.Set {
				entity := kmsg.NewDescribeClientQuotasResponseEntryEntity()
				if entity.Type = what; n.Name != "" {
					entity.Name = &n.Name
				}
				entry.Entity = append(entry.Entity, entity)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(q.Values)) {
			v := kmsg.NewDescribeClientQuotasResponseEntryValue()
			v.Key, v.Value = string(key), q.Values[key]
			entry.Values = append(entry.Values, v)
		}
		resp.Entries = append(resp.Entries, entry)
	}
	return resp
}

// quotaChange reads an entry of a request.
func quotaChange(in *kmsg.AlterClientQuotasRequestEntry) (federation.QuotaChange, error) {
	change := federation.QuotaChange{Set: make(map[federation.QuotaKey]float64)}
	fail := func(format string, args ...any) (federation.QuotaChange, error) {
		return change, federation.Errorf(federation.InvalidArgument, format, args...)
	}
	for _, part := range in.Entity {
		name := quotaPart(&change.Entity, part.Type)
		switch {
		case name == nil:
			return fail("Unhandled client quota entity type: %s", part.Type)
		case name.Set:
			return fail("Duplicate entity type: %s", part.Type)
		case part.Name != nil && *part.Name == "":
			return fail("Empty %s not supported", part.Type)
		}
		*name = federation.NamedQuota(deref(part.Name))
	}
	if err := change.Entity.Validate(); err != nil {
		return change, err
	}
	for _, op := range in.Ops {
		key := federation.QuotaKey(op.Key)
		_, set := change.Set[key]
		if set || slices.Contains(change.Remove, key) {
			return fail("Duplicate quota key: %s", op.Key)
		}
		if err := change.Entity.ValidateKey(key); err != nil {
			return change, err
		}
		if op.Remove {
			change.Remove = append(change.Remove, key)
		} else {
			change.Set[key] = op.Value
		}
	}
	return change, (&federation.Quota{Entity: change.Entity, Values: change.Set}).Validate()
}

// quotasPerRequestMax bounds the entries of one request, as the controllers do.
const quotasPerRequestMax = 1000

func handleAlterClientQuotas(ctx context.Context, c *conn, req *request, kreq *kmsg.AlterClientQuotasRequest) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.AlterClientQuotasResponse)
	denied := req.mayCluster(ctx, acl.AlterConfigs)
	seen := make(map[federation.QuotaEntity]bool)
	var changes []federation.QuotaChange
	var of []int // the entry of each change
	for i := range kreq.Entries {
		in := &kreq.Entries[i]
		r := kmsg.NewAlterClientQuotasResponseEntry()
		for _, part := range in.Entity {
			entity := kmsg.NewAlterClientQuotasResponseEntryEntity()
			entity.Type, entity.Name = part.Type, part.Name
			r.Entity = append(r.Entity, entity)
		}
		if denied != 0 {
			r.ErrorCode, r.ErrorMessage = denied, deniedMessage(denied)
			resp.Entries = append(resp.Entries, r)
			continue
		}
		change, err := quotaChange(in)
		if err == nil && seen[change.Entity] {
			err = federation.Errorf(federation.InvalidArgument, "the quota of %s is in the request more than once", change.Entity)
		}
		seen[change.Entity] = true
		if n := len(kreq.Entries); n > quotasPerRequestMax {
			err = federation.Errorf(federation.InvalidArgument, "%d quotas in one request: want at most %d; split it", n, quotasPerRequestMax)
		}
		if r.ErrorCode, r.ErrorMessage = req.fail(err), message(err); err == nil {
			changes, of = append(changes, change), append(of, i)
		}
		resp.Entries = append(resp.Entries, r)
	}
	c.alterQuotas(ctx, req, changes, kreq.ValidateOnly, func(i int, err error) {
		r := &resp.Entries[of[i]]
		r.ErrorCode, r.ErrorMessage = req.fail(err), message(err)
	})
	return resp
}

// alterQuotas makes the changes that are right by one call, whatever becomes of the others
// of their request, as a broker does; and waits until this gateway has them.
func (c *conn) alterQuotas(ctx context.Context, req *request, changes []federation.QuotaChange, validateOnly bool, answer func(int, error)) {
	if len(changes) == 0 {
		return
	}
	version, err := c.s.deps.Admin.AlterQuotas(ctx, changes, validateOnly)
	for i := range changes {
		if !validateOnly {
			req.changed(ctx, acl.AlterConfigs, acl.Cluster, "quota of "+changes[i].Entity.String(), err)
		}
		answer(i, err)
	}
	if !validateOnly {
		c.awaitACLs(ctx, version, err)
	}
}
