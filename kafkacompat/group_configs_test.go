package kafkacompat_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/kafkacompat"
)

// groupSettingsAt are the settings of a gateway that has another session timeout than Kafka.
func groupSettingsAt(c *kafkacompat.Config) {
	c.GroupSettings.SessionTimeout.Default, c.GroupSettings.SessionTimeout.Max = 50*time.Second, 70*time.Second
}

func TestGroupConfigs(t *testing.T) {
	w := newWorld(t, groupSettingsAt)
	c := w.dial()
	const session, heartbeat = federation.GroupSessionTimeout, federation.GroupHeartbeatInterval
	describe := func(group string) map[string]kmsg.DescribeConfigsResponseResourceConfig {
		t.Helper()
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.IncludeSynonyms = true
		req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: group}}
		r := exchange[*kmsg.DescribeConfigsResponse](c, req, 4).Resources[0]
		require.Zero(t, r.ErrorCode)
		out := make(map[string]kmsg.DescribeConfigsResponseResourceConfig)
		for _, one := range r.Configs {
			require.False(t, one.ReadOnly)
			out[one.Name] = one
		}
		require.Len(t, out, 2)
		return out
	}
	shows := func(group, name, value string, source kmsg.ConfigSource, synonyms ...string) {
		t.Helper()
		got := describe(group)[name]
		require.Equal(t, value, *got.Value)
		require.Equal(t, source, got.Source)
		var have []string
		for _, s := range got.ConfigSynonyms {
			have = append(have, s.Name+"="+*s.Value+" "+s.Source.String())
		}
		require.Equal(t, synonyms, have)
	}
	alter := func(group string, validateOnly bool, changes ...kmsg.IncrementalAlterConfigsRequestResourceConfig) (int16, string) {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		req.ValidateOnly = validateOnly
		req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: group, Configs: changes}}
		r := exchange[*kmsg.IncrementalAlterConfigsResponse](c, req, 1).Resources[0]
		if r.ErrorMessage == nil {
			return r.ErrorCode, ""
		}
		return r.ErrorCode, *r.ErrorMessage
	}
	change := func(op kmsg.IncrementalAlterConfigOp, name string, v ...string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
		cfg := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: name, Op: op}
		if len(v) > 0 {
			cfg.Value = &v[0]
		}
		return cfg
	}
	set, remove := kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete
	brokerSession := []string{"group.consumer.session.timeout.ms=50000 STATIC_BROKER_CONFIG", "group.consumer.session.timeout.ms=45000 DEFAULT_CONFIG"}
	shows("billing", session, "50000", kmsg.ConfigSourceStaticBrokerConfig, brokerSession...)
	shows("billing", heartbeat, "5000", kmsg.ConfigSourceDefaultConfig, "group.consumer.heartbeat.interval.ms=5000 DEFAULT_CONFIG")

	code, text := alter("billing", true, change(set, session, "60000"))
	require.Zero(t, code, text)
	shows("billing", session, "50000", kmsg.ConfigSourceStaticBrokerConfig, brokerSession...)
	code, text = alter("billing", false, change(set, session, "60000"), change(set, heartbeat, "6000"))
	require.Zero(t, code, text)
	shows("billing", session, "60000", kmsg.ConfigSourceGroupConfig, append([]string{session + "=60000 GROUP_CONFIG"}, brokerSession...)...)
	shows("other", session, "50000", kmsg.ConfigSourceStaticBrokerConfig, brokerSession...)
	code, text = alter("billing", false, change(remove, heartbeat), change(remove, "no.such.setting"))
	require.Zero(t, code, text)
	require.Equal(t, map[string]string{session: "60000"}, w.Current().GroupConfig("billing").Values)

	for _, bad := range []struct {
		group string
		kmsg.IncrementalAlterConfigsRequestResourceConfig
		code *kerr.Error
		text string
	}{
		{"", change(set, session, "60000"), kerr.InvalidRequest, "empty"},
		{"billing", change(set, session, "70001"), kerr.InvalidConfig, "must be less than or equal to group.consumer.max.session.timeout.ms"},
		{"billing", change(set, session, "1"), kerr.InvalidConfig, "must be greater than or equal to group.consumer.min.session.timeout.ms"},
		{"billing", change(set, heartbeat, "1"), kerr.InvalidConfig, "must be greater than or equal to group.consumer.min.heartbeat.interval.ms"},
		{"billing", change(set, session, "soon"), kerr.InvalidConfig, "Not a number of type INT"},
		{"billing", change(set, session), kerr.InvalidRequest, "null"},
		{"billing", change(set, "retention.ms", "1"), kerr.InvalidConfig, "Unknown group config name: retention.ms"},
		{"billing", change(set, "share.auto.offset.reset", "earliest"), kerr.InvalidConfig, "share groups"},
		{"billing", change(kmsg.IncrementalAlterConfigOpAppend, session, "1"), kerr.InvalidConfig, "no list"},
		{"billing", change(9, session, "1"), kerr.InvalidRequest, "operation 9"},
	} {
		code, text := alter(bad.group, false, bad.IncrementalAlterConfigsRequestResourceConfig)
		require.Equal(t, bad.code.Code, code, text)
		require.Contains(t, text, bad.text)
	}
	code, _ = alter("billing", false, change(set, session, "60000"), change(remove, session))
	require.Equal(t, kerr.InvalidRequest.Code, code, "given twice")
	require.Len(t, w.Current().GroupConfigs, 1, "nothing of it was done")

	list := func(types ...int8) (names []string) {
		req := kmsg.NewPtrListConfigResourcesRequest()
		req.ResourceTypes = types
		for _, r := range exchange[*kmsg.ListConfigResourcesResponse](c, req, 1).ConfigResources {
			if r.Type == int8(kmsg.ConfigResourceTypeGroupConfig) {
				names = append(names, r.Name)
			}
		}
		return names
	}
	require.Equal(t, []string{"billing"}, list())
	require.Equal(t, []string{"billing"}, list(int8(kmsg.ConfigResourceTypeGroupConfig)))
	require.Empty(t, list(int8(kmsg.ConfigResourceTypeTopic)))

	// AlterConfigs replaces all.
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrAlterConfigsRequest()
		six := "6000"
		req.Resources = []kmsg.AlterConfigsRequestResource{
			{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "billing", Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: heartbeat, Value: &six}}},
			{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "other", Configs: []kmsg.AlterConfigsRequestResourceConfig{{Name: heartbeat}}},
		}
		r := exchange[*kmsg.AlterConfigsResponse](c, req, v).Resources
		require.Zero(t, r[0].ErrorCode, sprint(r))
		require.Equal(t, kerr.InvalidRequest.Code, r[1].ErrorCode, "null")
		require.Equal(t, map[string]string{heartbeat: "6000"}, w.Current().GroupConfig("billing").Values)
		req.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeGroupConfig, ResourceName: "billing"}}
		require.Zero(t, exchange[*kmsg.AlterConfigsResponse](c, req, v).Resources[0].ErrorCode)
		require.Empty(t, w.Current().GroupConfigs)
	}
	require.Empty(t, list())
}
