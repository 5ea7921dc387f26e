package kafkacompat

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/acl"
)

// Settings of groups are entries of the map: the controller changes them, and each group's
// coordinator follows. What a group may set is a setting of the gateways, as at a broker, so
// this door checks that. A change is answered when this gateway's map has it.

// groupDocs describes the settings of a group, by name, as DescribeConfigs shows them, with
// the name of the broker setting that holds for groups that set nothing.
var groupDocs = []struct{ name, broker, doc string }{
	{federation.GroupHeartbeatInterval, "group.consumer.heartbeat.interval.ms", "How often members of the newer protocol send heartbeats."},
	{federation.GroupSessionTimeout, "group.consumer.session.timeout.ms", "How long members of the newer protocol are kept without a heartbeat."},
}

// groupConfigs shows what holds for a group: its own settings, or else those of this gateway.
func (s *Server) groupConfigs(c *federation.GroupConfig) []described {
	of := s.cfg.GroupSettings
	usual := federation.GroupSettings{}.WithDefaults()
	out := make([]described, 0, len(groupDocs))
	for _, k := range groupDocs {
		own, kafkas := of.HeartbeatInterval.Default, usual.HeartbeatInterval.Default
		if k.name == federation.GroupSessionTimeout {
			own, kafkas = of.SessionTimeout.Default, usual.SessionTimeout.Default
		}
		d := described{configKey: configKey{k.name, millisText(own), kmsg.ConfigTypeInt, k.doc}, source: kmsg.ConfigSourceDefaultConfig}
		d.value = new(d.configKey.value)
		if own != kafkas {
			d.source = kmsg.ConfigSourceStaticBrokerConfig
			d.synonyms = append(d.synonyms, synonym(k.broker, d.value, d.source))
		}
		d.synonyms = append(d.synonyms, synonym(k.broker, new(millisText(kafkas)), kmsg.ConfigSourceDefaultConfig))
		if v, ok := c.Millis(k.name); ok {
			d.value, d.source = new(millisText(v)), kmsg.ConfigSourceGroupConfig
			d.synonyms = append([]kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{synonym(k.name, d.value, d.source)}, d.synonyms...)
		}
		out = append(out, d)
	}
	return out
}

// alterGroup makes the change that AlterConfigs or IncrementalAlterConfigs asks for.
func (c *conn) alterGroup(ctx context.Context, req *request, change *federation.GroupConfigChange, validateOnly bool) error {
	m := c.s.mapOrNil()
	if m == nil {
		return federation.Errorf(federation.NotLeader, "this gateway has no map yet; try again")
	}
	err := c.s.cfg.GroupSettings.CheckChange(m, change)
	var version federation.MapVersion
	if err == nil {
		version, err = c.s.deps.Admin.AlterGroupConfig(ctx, change, validateOnly)
	}
	if validateOnly {
		return err
	}
	req.changed(ctx, acl.AlterConfigs, acl.Group, change.Group, err)
	c.awaitACLs(ctx, version, err)
	return err
}

// groupChange reads what IncrementalAlterConfigs asks of a group.
func groupChange(r *kmsg.IncrementalAlterConfigsRequestResource) (*federation.GroupConfigChange, error) {
	change := &federation.GroupConfigChange{GroupID: federation.GroupID{Group: r.ResourceName}, Set: make(map[string]string)}
	seen := make(map[string]bool)
	for _, cfg := range r.Configs {
		switch {
		case seen[cfg.Name]:
			return nil, federation.Errorf(federation.InvalidArgument, "group %q: config %q is given more than once", r.ResourceName, cfg.Name)
		case cfg.Op == kmsg.IncrementalAlterConfigOpDelete:
			change.Remove = append(change.Remove, cfg.Name)
		case cfg.Value == nil:
			return nil, federation.Errorf(federation.InvalidArgument, "group %q: config %q: null is not a value", r.ResourceName, cfg.Name)
		case cfg.Op == kmsg.IncrementalAlterConfigOpSet:
			change.Set[cfg.Name] = *cfg.Value
		case cfg.Op == kmsg.IncrementalAlterConfigOpAppend, cfg.Op == kmsg.IncrementalAlterConfigOpSubtract:
			return nil, federation.Errorf(federation.InvalidConfig, "group %q: config %q is no list: append and subtract do not apply", r.ResourceName, cfg.Name)
		default:
			return nil, federation.Errorf(federation.InvalidArgument, "group %q: config %q: operation %d is not known", r.ResourceName, cfg.Name, cfg.Op)
		}
		seen[cfg.Name] = true
	}
	return change, nil
}

// groupReplacement reads what AlterConfigs asks of a group: what it does not name is taken away.
func (s *Server) groupReplacement(r *kmsg.AlterConfigsRequestResource) (*federation.GroupConfigChange, error) {
	change := &federation.GroupConfigChange{GroupID: federation.GroupID{Group: r.ResourceName}, Set: make(map[string]string)}
	for _, cfg := range r.Configs {
		if _, twice := change.Set[cfg.Name]; twice {
			return nil, federation.Errorf(federation.InvalidArgument, "group %q: config %q is given more than once", r.ResourceName, cfg.Name)
		}
		if cfg.Value == nil {
			return nil, federation.Errorf(federation.InvalidArgument, "group %q: config %q: null is not a value", r.ResourceName, cfg.Name)
		}
		change.Set[cfg.Name] = *cfg.Value
	}
	if m := s.mapOrNil(); m != nil && m.GroupConfig(r.ResourceName) != nil {
		for name := range m.GroupConfig(r.ResourceName).Values {
			if _, kept := change.Set[name]; !kept {
				change.Remove = append(change.Remove, name)
			}
		}
	}
	return change, nil
}
