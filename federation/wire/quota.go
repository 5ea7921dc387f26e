package wire

import (
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"strings"

	"github.com/braidmq/braid/federation"
	controlv1 "github.com/braidmq/braid/gen/braid/control/v1"
)

const prefixQuota = "quota/"

// QuotaKey returns the key of a quota's entry: each part of its entity, escaped. No part
// that has a name is spelled as the default.
func QuotaKey(e federation.QuotaEntity) string {
	var parts []string
	if e.Tenant != "" {
		parts = append(parts, "tenant="+url.QueryEscape(e.Tenant))
	}
	for _, p := range []struct {
		what string
		name federation.QuotaName
	}{{"user", e.User}, {"client-id", e.ClientID}, {"ip", e.IP}} {
		if p.name.Set {
			parts = append(parts, p.what+"="+url.QueryEscape(p.name.Name))
		}
	}
	return prefixQuota + strings.Join(parts, "&")
}

func quotaEntry(q *federation.Quota, version int64) *controlv1.MapEntry {
	e := &controlv1.QuotaEntry{User: quotaName(q.Entity.User), ClientId: quotaName(q.Entity.ClientID), Ip: quotaName(q.Entity.IP), Tenant: q.Entity.Tenant, Values: make(map[string]float64, len(q.Values))}
	for k, v := range q.Values {
		e.Values[string(k)] = v
	}
	return &controlv1.MapEntry{Key: QuotaKey(q.Entity), Version: version, Value: &controlv1.MapEntry_Quota{Quota: e}}
}

func quotaName(n federation.QuotaName) *string {
	if !n.Set {
		return nil
	}
	return &n.Name
}

func decodeQuotaName(p *string) federation.QuotaName {
	if p == nil {
		return federation.QuotaName{}
	}
	return federation.NamedQuota(*p)
}

// diffQuotas passes over maps that share their quotas, as most do.
func (d *Delta) diffQuotas(from, to *federation.Map) {
	if reflect.ValueOf(from.Quotas).UnsafePointer() == reflect.ValueOf(to.Quotas).UnsafePointer() {
		return
	}
	for e, q := range to.Quotas {
		if old := from.Quotas[e]; old == nil || !old.Equal(q) {
			d.Upserts = append(d.Upserts, quotaEntry(q, int64(d.To)))
		}
	}
	for e := range from.Quotas {
		if to.Quotas[e] == nil {
			d.Deletes = append(d.Deletes, QuotaKey(e))
		}
	}
}

func (e *edit) quotas() federation.Quotas {
	if !e.ownQuotas {
		e.ownQuotas = true
		e.m.Quotas = maps.Clone(e.m.Quotas)
		if e.m.Quotas == nil {
			e.m.Quotas = make(federation.Quotas)
		}
	}
	return e.m.Quotas
}

func (e *edit) setQuota(key string, in *controlv1.QuotaEntry) error {
	q := &federation.Quota{
		Entity: federation.QuotaEntity{User: decodeQuotaName(in.User), ClientID: decodeQuotaName(in.ClientId), IP: decodeQuotaName(in.Ip), Tenant: in.GetTenant()},
		Values: make(map[federation.QuotaKey]float64, len(in.GetValues())),
	}
	for k, v := range in.GetValues() {
		q.Values[federation.QuotaKey(k)] = v
	}
	if err := q.Validate(); err != nil {
		return err
	}
	if key != QuotaKey(q.Entity) {
		return errKey
	}
	e.quotas()[q.Entity] = q
	return nil
}

// removeQuota takes only the one spelling of a key that QuotaKey writes.
func (e *edit) removeQuota(key string) error {
	var entity federation.QuotaEntity
	for part := range strings.SplitSeq(key[len(prefixQuota):], "&") {
		what, escaped, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(escaped)
		if err != nil {
			return fmt.Errorf("delete of %q: bad key", key)
		}
		switch what {
		case "tenant":
			entity.Tenant = name
		case "user":
			entity.User = federation.NamedQuota(name)
		case "client-id":
			entity.ClientID = federation.NamedQuota(name)
		case "ip":
			entity.IP = federation.NamedQuota(name)
		}
	}
	if QuotaKey(entity) != key {
		return fmt.Errorf("delete of %q: bad key", key)
	}
	delete(e.quotas(), entity)
	return nil
}
