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

const prefixGroupConfig = "group-config/"

// GroupConfigKey returns the key of a group's entry: its name, escaped, behind that of its
// tenant and a slash, which no escaped name has.
func GroupConfigKey(id federation.GroupID) string {
	key := prefixGroupConfig
	if id.Tenant != "" {
		key += url.QueryEscape(id.Tenant) + "/"
	}
	return key + url.QueryEscape(id.Group)
}

func groupConfigEntry(c *federation.GroupConfig, version int64) *controlv1.MapEntry {
	e := &controlv1.GroupConfigEntry{Group: c.Group, Tenant: c.Tenant, Values: c.Values}
	return &controlv1.MapEntry{Key: GroupConfigKey(c.GroupID), Version: version, Value: &controlv1.MapEntry_GroupConfig{GroupConfig: e}}
}

// diffGroupConfigs passes over maps that share their configs, as most do.
func (d *Delta) diffGroupConfigs(from, to *federation.Map) {
	if reflect.ValueOf(from.GroupConfigs).UnsafePointer() == reflect.ValueOf(to.GroupConfigs).UnsafePointer() {
		return
	}
	for id, c := range to.GroupConfigs {
		if old := from.GroupConfigs[id]; old == nil || !old.Equal(c) {
			d.Upserts = append(d.Upserts, groupConfigEntry(c, int64(d.To)))
		}
	}
	for id := range from.GroupConfigs {
		if to.GroupConfigs[id] == nil {
			d.Deletes = append(d.Deletes, GroupConfigKey(id))
		}
	}
}

func (e *edit) groupConfigs() federation.GroupConfigs {
	if !e.ownGroupConfigs {
		e.ownGroupConfigs = true
		e.m.GroupConfigs = maps.Clone(e.m.GroupConfigs)
		if e.m.GroupConfigs == nil {
			e.m.GroupConfigs = make(federation.GroupConfigs)
		}
	}
	return e.m.GroupConfigs
}

func (e *edit) setGroupConfig(key string, in *controlv1.GroupConfigEntry) error {
	c := &federation.GroupConfig{GroupID: federation.GroupID{Tenant: in.GetTenant(), Group: in.GetGroup()}, Values: in.GetValues()}
	if err := c.Validate(); err != nil {
		return err
	}
	if key != GroupConfigKey(c.GroupID) {
		return errKey
	}
	e.groupConfigs()[c.GroupID] = c
	return nil
}

// removeGroupConfig takes only the one spelling of a key that GroupConfigKey writes.
func (e *edit) removeGroupConfig(key string) error {
	var id federation.GroupID
	rest := key[len(prefixGroupConfig):]
	tenant, group, ok := strings.Cut(rest, "/")
	if !ok {
		tenant, group = "", rest
	}
	var err error
	if id.Tenant, err = url.QueryUnescape(tenant); err == nil {
		id.Group, err = url.QueryUnescape(group)
	}
	if err != nil || GroupConfigKey(id) != key {
		return fmt.Errorf("delete of %q: bad key", key)
	}
	delete(e.groupConfigs(), id)
	return nil
}
