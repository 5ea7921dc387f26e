package federation

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
)

// Quotas are the quotas of a map by whom they are for. As everything in a map, they are
// not changed once the map is published.
type Quotas map[QuotaEntity]*Quota

// A Quota is what clients may take, by key, as Kafka's client quotas say it
// (org.apache.kafka.common.quota).
type Quota struct {
	Entity QuotaEntity
	Values map[QuotaKey]float64
}

// A QuotaEntity is whom a quota is for: a user, a client id or both; or an IP address.
type QuotaEntity struct {
	User, ClientID, IP QuotaName
	Tenant             string // whose users and clients; empty = the deployment's own
}

// A QuotaName is one part of a QuotaEntity.
type QuotaName struct {
	Set  bool   // else the entity has no such part
	Name string // empty = the default: each one that has no quota of its own
}

// NamedQuota is the part of an entity with a name; an empty one is the default.
func NamedQuota(name string) QuotaName { return QuotaName{Set: true, Name: name} }

// A QuotaKey is what a quota bounds.
type QuotaKey string

// The keys. All but RequestRate are Kafka's.
const (
	QuotaProducerByteRate       QuotaKey = "producer_byte_rate"
	QuotaConsumerByteRate       QuotaKey = "consumer_byte_rate"
	QuotaRequestPercentage      QuotaKey = "request_percentage"
	QuotaRequestRate            QuotaKey = "request_rate"
	QuotaControllerMutationRate QuotaKey = "controller_mutation_rate"
	QuotaConnectionCreationRate QuotaKey = "connection_creation_rate" // of IP addresses only
)

// QuotaKeys are the keys that a user or a client id can have; IPQuotaKeys those of an IP address.
var (
	QuotaKeys   = []QuotaKey{QuotaConsumerByteRate, QuotaControllerMutationRate, QuotaProducerByteRate, QuotaRequestPercentage, QuotaRequestRate}
	IPQuotaKeys = []QuotaKey{QuotaConnectionCreationRate}
)

// quotaNameMax bounds each name of an entity.
const quotaNameMax = 1024

func (n QuotaName) String() string {
	if n.Name == "" {
		return "<default>"
	}
	return fmt.Sprintf("%q", n.Name)
}

// MarshalText has an entity be a key of JSON objects.
func (e QuotaEntity) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

func (e QuotaEntity) String() string {
	out := ""
	if e.Tenant != "" {
		out = "tenant " + e.Tenant
	}
	for _, p := range []struct {
		what string
		name QuotaName
	}{{"user", e.User}, {"client-id", e.ClientID}, {"ip", e.IP}} {
		if p.name.Set {
			if out != "" {
				out += ", "
			}
			out += p.what + " " + p.name.String()
		}
	}
	return out
}

// Validate refuses an entity that no broker would take (ClientQuotaControlManager).
func (e QuotaEntity) Validate() error {
	switch {
	case !e.User.Set && !e.ClientID.Set && !e.IP.Set:
		return Errorf(InvalidArgument, "a quota is for a user, a client id, both, or an IP address; none is named")
	case e.IP.Set && e.Tenant != "":
		return Errorf(InvalidArgument, "quota of %s: logical cluster %q is a tenant; connections are counted before it is known whose they are, so only the deployment's own logical cluster has quotas of IP addresses", e, e.Tenant)
	case e.IP.Set && (e.User.Set || e.ClientID.Set):
		return Errorf(InvalidArgument, "quota of %s: an IP address cannot be combined with a user or a client id", e)
	}
	for _, n := range []QuotaName{e.User, e.ClientID, e.IP} {
		if len(n.Name) > quotaNameMax {
			return Errorf(InvalidArgument, "quota: a name has %d bytes, want at most %d", len(n.Name), quotaNameMax)
		}
	}
	if e.IP.Set && e.IP.Name != "" {
		if a, err := netip.ParseAddr(e.IP.Name); err != nil || a.Unmap().WithZone("").String() != e.IP.Name {
			return Errorf(InvalidArgument, "quota of IP address %q: want an address in its shortest form, such as 10.0.0.1 or fd00::1", e.IP.Name)
		}
	}
	return nil
}

// ValidateKey refuses a key that an entity cannot have.
func (e QuotaEntity) ValidateKey(key QuotaKey) error {
	keys := QuotaKeys
	if e.IP.Set {
		keys = IPQuotaKeys
	}
	if !slices.Contains(keys, key) {
		return Errorf(InvalidArgument, "quota of %s: %q is no key of it; want one of %v", e, key, keys)
	}
	return nil
}

// Validate refuses what no broker would store.
func (q *Quota) Validate() error {
	if err := q.Entity.Validate(); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(q.Values)) {
		if err := q.Entity.ValidateKey(key); err != nil {
			return err
		}
		v := q.Values[key]
		whole := key == QuotaProducerByteRate || key == QuotaConsumerByteRate || key == QuotaConnectionCreationRate
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0) || v <= 0:
			return Errorf(InvalidArgument, "quota of %s: %s is %v, want more than 0", q.Entity, key, v)
		case whole && (v != math.Trunc(v) || v > math.MaxInt64):
			return Errorf(InvalidArgument, "quota of %s: %s is %v, want a whole number", q.Entity, key, v)
		}
	}
	return nil
}

// Equal reports whether two quotas say the same.
func (q *Quota) Equal(o *Quota) bool {
	return q == o || q.Entity == o.Entity && maps.Equal(q.Values, o.Values)
}

// Compare orders entities, as they are listed: users, then client ids, then IP addresses.
func (e QuotaEntity) Compare(o QuotaEntity) int {
	part := func(a, b QuotaName) int {
		switch {
		case a.Set != b.Set:
			if a.Set {
				return -1
			}
			return 1
		default:
			return cmp.Compare(a.Name, b.Name)
		}
	}
	return cmp.Or(cmp.Compare(e.Tenant, o.Tenant), part(e.User, o.User), part(e.ClientID, o.ClientID), part(e.IP, o.IP))
}

// Sorted returns all quotas in the order of their entities.
func (q Quotas) Sorted() []*Quota {
	return slices.SortedFunc(maps.Values(q), func(a, b *Quota) int { return a.Entity.Compare(b.Entity) })
}

// Of returns the quotas of a tenant, as they are in the map; those of the deployment's own
// logical cluster if it is empty.
func (q Quotas) Of(tenant string) Quotas {
	out := make(Quotas)
	for e, v := range q {
		if e.Tenant == tenant {
			out[e] = v
		}
	}
	return out
}

// A QuotaChange sets and takes away keys of one entity.
type QuotaChange struct {
	Entity QuotaEntity
	Set    map[QuotaKey]float64
	Remove []QuotaKey
}

// Apply returns the quotas after some changes; q itself if they change nothing. It
// refuses all of them if one is wrong.
func (q Quotas) Apply(changes []QuotaChange) (Quotas, error) {
	out, changed := q, false
	for i := range changes {
		c := &changes[i]
		next := &Quota{Entity: c.Entity, Values: make(map[QuotaKey]float64)}
		if old := out[c.Entity]; old != nil {
			maps.Copy(next.Values, old.Values)
		}
		for _, key := range c.Remove {
			if err := cmp.Or(c.Entity.Validate(), c.Entity.ValidateKey(key)); err != nil {
				return nil, err
			}
			delete(next.Values, key)
		}
		maps.Copy(next.Values, c.Set)
		if err := next.Validate(); err != nil {
			return nil, err
		}
		old := out[c.Entity]
		if old == nil && len(next.Values) == 0 || old != nil && old.Equal(next) {
			continue
		}
		if !changed {
			out, changed = maps.Clone(out), true
			if out == nil {
				out = make(Quotas)
			}
		}
		if len(next.Values) == 0 {
			delete(out, c.Entity)
		} else {
			out[c.Entity] = next
		}
	}
	return out, nil
}
