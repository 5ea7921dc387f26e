package federation

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// GroupConfigs are the settings that groups have of their own. As everything in a map,
// they are not changed once the map is published.
type GroupConfigs map[GroupID]*GroupConfig

// A GroupID names a group in the map of a deployment.
type GroupID struct {
	Tenant string // whose group; empty = the deployment's own
	Group  string
}

// A GroupConfig is what one group has set, by Kafka's names
// (org.apache.kafka.coordinator.group.GroupConfig).
type GroupConfig struct {
	GroupID
	// Values can have names that this build does not know: a newer controller wrote them.
	Values map[string]string
}

// The settings that a group can have of its own. They are about its members of Kafka's
// newer protocol (KIP-848).
const (
	GroupSessionTimeout    = "consumer.session.timeout.ms"
	GroupHeartbeatInterval = "consumer.heartbeat.interval.ms"
)

// GroupConfigNames are the names of all of them.
var GroupConfigNames = []string{GroupHeartbeatInterval, GroupSessionTimeout}

// Bounds of what a map takes of one group, whoever wrote it.
const (
	groupNameMax   = 1024
	groupValuesMax = 64
	groupValueMax  = 1024
)

func (id GroupID) String() string {
	name := strconv.Quote(id.Group)
	if id.Tenant != "" {
		return name + " of tenant " + id.Tenant
	}
	return name
}

// MarshalText has a GroupID be a key of JSON objects.
func (id GroupID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// Compare orders groups as they are listed.
func (id GroupID) Compare(o GroupID) int {
	return cmp.Or(cmp.Compare(id.Tenant, o.Tenant), cmp.Compare(id.Group, o.Group))
}

// Validate refuses a name that no group can have.
func (id GroupID) Validate() error {
	switch {
	case id.Group == "":
		return Errorf(InvalidArgument, "a group's config: the name of the group is empty; there is none for all groups but the settings of the gateways")
	case len(id.Group) > groupNameMax:
		return Errorf(InvalidArgument, "a group's config: the name of the group has %d bytes, want at most %d", len(id.Group), groupNameMax)
	case !utf8.ValidString(id.Group):
		return Errorf(InvalidArgument, "a group's config: the name %q of the group is not UTF-8", id.Group)
	}
	return nil
}

// Validate refuses what no map takes. It asks nothing of names and values that a newer
// build may know.
func (c *GroupConfig) Validate() error {
	if err := c.GroupID.Validate(); err != nil {
		return err
	}
	if n := len(c.Values); n == 0 || n > groupValuesMax {
		return Errorf(InvalidConfig, "group %s: %d settings, want 1 to %d", c.GroupID, n, groupValuesMax)
	}
	for name, v := range c.Values {
		if name == "" || len(name) > groupValueMax || len(v) > groupValueMax {
			return Errorf(InvalidConfig, "group %s: a setting has an empty or a long name, or a long value", c.GroupID)
		}
	}
	return nil
}

// Equal reports whether two configs say the same.
func (c *GroupConfig) Equal(o *GroupConfig) bool {
	return c == o || c.GroupID == o.GroupID && maps.Equal(c.Values, o.Values)
}

// Millis returns a setting; false if the group does not have it. c may be nil.
func (c *GroupConfig) Millis(name string) (time.Duration, bool) {
	if c == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(c.Values[name], 10, 32)
	if err != nil || n < 1 {
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}

// GroupValue checks a value of a setting as a broker parses it (ConfigDef.Type.INT,
// atLeast(1)), and returns it in its shortest form.
func GroupValue(name, v string) (string, error) {
	if !slices.Contains(GroupConfigNames, name) {
		return "", errGroupSetting(name)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 32)
	switch {
	case err != nil:
		return "", Errorf(InvalidConfig, "Invalid value %s for configuration %s: Not a number of type INT", v, name)
	case n < 1:
		return "", Errorf(InvalidConfig, "Invalid value %d for configuration %s: Value must be at least 1", n, name)
	}
	return strconv.FormatInt(n, 10), nil
}

// errGroupSetting says why a name is none that a group can set.
func errGroupSetting(name string) error {
	switch {
	case strings.HasPrefix(name, "share."), strings.HasPrefix(name, "errors.deadletterqueue."):
		return Errorf(InvalidConfig, "group config %s is for share groups, which braid does not serve", name)
	case strings.HasPrefix(name, "streams."):
		return Errorf(InvalidConfig, "group config %s is for streams groups, which braid does not serve: Kafka Streams uses the classic protocol", name)
	case name == "consumer.assignment.interval.ms", name == "consumer.assignor.offload.enable":
		return Errorf(InvalidConfig, "group config %s is not offered: braid computes an assignment as soon as it is needed; want one of %s", name, strings.Join(GroupConfigNames, ", "))
	default:
		return Errorf(InvalidConfig, "Unknown group config name: %s; want one of %s", name, strings.Join(GroupConfigNames, ", "))
	}
}

// GroupConfig returns what a group of this logical cluster has set; nil = nothing.
func (m *Map) GroupConfig(group string) *GroupConfig { return m.GroupConfigs[GroupID{Group: group}] }

// Sorted returns all configs in the order of their groups.
func (c GroupConfigs) Sorted() []*GroupConfig {
	return slices.SortedFunc(maps.Values(c), func(a, b *GroupConfig) int { return a.GroupID.Compare(b.GroupID) })
}

// Of returns the configs of a tenant's groups, as they are in the map; those of the
// deployment's own logical cluster if it is empty.
func (c GroupConfigs) Of(tenant string) GroupConfigs {
	out := make(GroupConfigs)
	for id, v := range c {
		if id.Tenant == tenant {
			out[id] = v
		}
	}
	return out
}

// A GroupConfigChange sets settings of one group and takes others away.
type GroupConfigChange struct {
	GroupID
	Set    map[string]string
	Remove []string
}

// after returns what a group has after a change.
func (c GroupConfigs) after(change *GroupConfigChange) (*GroupConfig, error) {
	if err := change.GroupID.Validate(); err != nil {
		return nil, err
	}
	next := &GroupConfig{GroupID: change.GroupID, Values: make(map[string]string)}
	if old := c[change.GroupID]; old != nil {
		maps.Copy(next.Values, old.Values)
	}
	for _, name := range change.Remove {
		delete(next.Values, name)
	}
	for _, name := range slices.Sorted(maps.Keys(change.Set)) {
		v, err := GroupValue(name, change.Set[name])
		if err != nil {
			return nil, err
		}
		next.Values[name] = v
	}
	return next, nil
}

// Apply returns the configs after a change, and whether it changes anything. That the
// session is longer than a heartbeat is checked here too, since two gateways may have been
// asked for one of the two each.
func (c GroupConfigs) Apply(change *GroupConfigChange) (_ GroupConfigs, changed bool, _ error) {
	next, err := c.after(change)
	if err != nil {
		return c, false, err
	}
	session, hasSession := next.Millis(GroupSessionTimeout)
	heartbeat, hasHeartbeat := next.Millis(GroupHeartbeatInterval)
	if hasSession && hasHeartbeat && session <= heartbeat {
		return c, false, errGroupSession
	}
	old := c[change.GroupID]
	if old == nil && len(next.Values) == 0 || old != nil && old.Equal(next) {
		return c, false, nil
	}
	out := maps.Clone(c)
	if out == nil {
		out = make(GroupConfigs)
	}
	if len(next.Values) == 0 {
		delete(out, change.GroupID)
		return out, true, nil
	}
	out[change.GroupID] = next
	return out, true, next.Validate()
}

var errGroupSession = Errorf(InvalidConfig, "%s must be greater than %s", GroupSessionTimeout, GroupHeartbeatInterval)

// A GroupSetting is what a gateway has for groups that set nothing, and what others may set.
type GroupSetting struct{ Default, Min, Max time.Duration }

func (s GroupSetting) of(c *GroupConfig, name string) time.Duration {
	v, ok := c.Millis(name)
	if !ok {
		return s.Default
	}
	return min(max(v, s.Min), s.Max)
}

// GroupSettings are those of a gateway for members of the newer protocol.
type GroupSettings struct{ SessionTimeout, HeartbeatInterval GroupSetting }

// WithDefaults fills what is zero with Kafka's defaults, widened to hold what is set.
func (s GroupSettings) WithDefaults() GroupSettings {
	fill := func(one *GroupSetting, value, least, most time.Duration) {
		if one.Default == 0 {
			one.Default = value
		}
		if one.Min == 0 {
			one.Min = min(least, one.Default)
		}
		if one.Max == 0 {
			one.Max = max(most, one.Default)
		}
	}
	fill(&s.SessionTimeout, 45*time.Second, 45*time.Second, 60*time.Second)
	fill(&s.HeartbeatInterval, 5*time.Second, 5*time.Second, 15*time.Second)
	return s
}

// Of returns what holds for a group; c is nil if it has no config of its own. What was set
// under other bounds is brought within those of this gateway, and a heartbeat that would
// come too late for its session comes three times in it.
func (s GroupSettings) Of(c *GroupConfig) (session, heartbeat time.Duration) {
	session, heartbeat = s.SessionTimeout.of(c, GroupSessionTimeout), s.HeartbeatInterval.of(c, GroupHeartbeatInterval)
	if heartbeat >= session {
		heartbeat = session / 3
	}
	return session, heartbeat
}

// Check refuses what a broker with these settings would not take, in its words
// (GroupConfig.validateValues). c is the whole config of the group.
func (s GroupSettings) Check(c *GroupConfig) error {
	effective := make(map[string]time.Duration, len(GroupConfigNames))
	for _, one := range []struct {
		name, key string // key is how brokers call the bounds: with min or max in place of %
		GroupSetting
	}{
		{GroupHeartbeatInterval, "group.consumer.%.heartbeat.interval.ms", s.HeartbeatInterval},
		{GroupSessionTimeout, "group.consumer.%.session.timeout.ms", s.SessionTimeout},
	} {
		v, ok := c.Millis(one.name)
		switch {
		case !ok:
			v = one.Default
		case v < one.Min:
			return Errorf(InvalidConfig, "%s must be greater than or equal to %s: want at least %d", one.name, strings.Replace(one.key, "%", "min", 1), one.Min.Milliseconds())
		case v > one.Max:
			return Errorf(InvalidConfig, "%s must be less than or equal to %s: want at most %d", one.name, strings.Replace(one.key, "%", "max", 1), one.Max.Milliseconds())
		}
		effective[one.name] = v
	}
	if effective[GroupSessionTimeout] <= effective[GroupHeartbeatInterval] {
		return errGroupSession
	}
	return nil
}

// CheckChange refuses a change that is wrong, or after which the group of a map would have
// what Check refuses.
func (s GroupSettings) CheckChange(m *Map, change *GroupConfigChange) error {
	next, err := m.GroupConfigs.after(change)
	if err != nil {
		return err
	}
	return s.Check(next)
}

// Validate refuses settings that no group could have.
func (s GroupSettings) Validate() error {
	for _, one := range []struct {
		name string
		GroupSetting
	}{{"session timeout", s.SessionTimeout}, {"heartbeat interval", s.HeartbeatInterval}} {
		if one.Min < time.Millisecond || one.Max < one.Min || one.Max > math.MaxInt32*time.Millisecond {
			return Errorf(InvalidConfig, "consumer %s: %v to %v is no range that a group may set", one.name, one.Min, one.Max)
		}
		if one.Default < one.Min || one.Default > one.Max {
			return Errorf(InvalidConfig, "consumer %s: %v is not within what a group may set, %v to %v", one.name, one.Default, one.Min, one.Max)
		}
	}
	return nil
}
