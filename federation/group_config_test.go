package federation_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/federation"
)

func TestGroupConfigChanges(t *testing.T) {
	billing := federation.GroupID{Group: "billing"}
	var none federation.GroupConfigs
	apply := func(c federation.GroupConfigs, set map[string]string, remove ...string) (federation.GroupConfigs, bool) {
		out, changed, err := c.Apply(&federation.GroupConfigChange{GroupID: billing, Set: set, Remove: remove})
		require.NoError(t, err)
		return out, changed
	}
	one, changed := apply(none, map[string]string{federation.GroupSessionTimeout: " 050000 "})
	require.True(t, changed)
	require.Equal(t, map[string]string{federation.GroupSessionTimeout: "50000"}, one[billing].Values)
	require.Empty(t, none)

	two, _ := apply(one, map[string]string{federation.GroupHeartbeatInterval: "9000"})
	require.Len(t, two[billing].Values, 2)
	require.Len(t, one[billing].Values, 1, "what was published is not changed")

	for _, same := range []map[string]string{nil, {federation.GroupHeartbeatInterval: "9000"}} {
		_, changed = apply(two, same, "no.such.setting")
		require.False(t, changed)
	}
	left, changed := apply(two, nil, federation.GroupSessionTimeout, federation.GroupHeartbeatInterval)
	require.True(t, changed)
	require.Empty(t, left)

	// What a newer build has written stays, and is no reason to refuse anything.
	newer := federation.GroupConfigs{billing: {GroupID: billing, Values: map[string]string{"consumer.new": "x"}}}
	kept, _ := apply(newer, map[string]string{federation.GroupSessionTimeout: "50000"})
	require.Equal(t, "x", kept[billing].Values["consumer.new"])
}

func TestGroupConfigRefused(t *testing.T) {
	billing := federation.GroupID{Group: "billing"}
	have := federation.GroupConfigs{billing: {GroupID: billing, Values: map[string]string{federation.GroupHeartbeatInterval: "9000"}}}
	for _, c := range []struct {
		group, name, value string
		kind               federation.Kind
		text               string
	}{
		{"", federation.GroupSessionTimeout, "50000", federation.InvalidArgument, "empty"},
		{strings.Repeat("g", 1025), federation.GroupSessionTimeout, "50000", federation.InvalidArgument, "at most 1024"},
		{"\xff", federation.GroupSessionTimeout, "50000", federation.InvalidArgument, "UTF-8"},
		{"billing", "no.such.setting", "1", federation.InvalidConfig, "Unknown group config name: no.such.setting"},
		{"billing", "share.session.timeout.ms", "50000", federation.InvalidConfig, "share groups"},
		{"billing", "streams.num.standby.replicas", "1", federation.InvalidConfig, "streams groups"},
		{"billing", "consumer.assignment.interval.ms", "1", federation.InvalidConfig, "not offered"},
		{"billing", federation.GroupSessionTimeout, "soon", federation.InvalidConfig, "Not a number of type INT"},
		{"billing", federation.GroupSessionTimeout, "2147483648", federation.InvalidConfig, "Not a number of type INT"},
		{"billing", federation.GroupSessionTimeout, "0", federation.InvalidConfig, "at least 1"},
		{"billing", federation.GroupSessionTimeout, "9000", federation.InvalidConfig, "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms"},
	} {
		after, changed, err := have.Apply(&federation.GroupConfigChange{GroupID: federation.GroupID{Group: c.group}, Set: map[string]string{c.name: c.value}})
		require.Equal(t, c.kind, federation.KindOf(err), "%s=%s: %v", c.name, c.value, err)
		require.ErrorContains(t, err, c.text)
		require.False(t, changed)
		require.Equal(t, have, after)
	}
}

func TestGroupSettings(t *testing.T) {
	own := func(session, heartbeat string) *federation.GroupConfig {
		c := &federation.GroupConfig{GroupID: federation.GroupID{Group: "billing"}, Values: make(map[string]string)}
		if session != "" {
			c.Values[federation.GroupSessionTimeout] = session
		}
		if heartbeat != "" {
			c.Values[federation.GroupHeartbeatInterval] = heartbeat
		}
		return c
	}
	kafkas := federation.GroupSettings{}.WithDefaults()
	require.NoError(t, kafkas.Validate())
	for _, c := range []struct {
		own                *federation.GroupConfig
		session, heartbeat time.Duration
		refused            string
	}{
		{nil, 45 * time.Second, 5 * time.Second, ""},
		{own("50000", ""), 50 * time.Second, 5 * time.Second, ""},
		{own("60000", "15000"), 60 * time.Second, 15 * time.Second, ""},
		{own("44999", ""), 45 * time.Second, 5 * time.Second, "consumer.session.timeout.ms must be greater than or equal to group.consumer.min.session.timeout.ms"},
		{own("60001", ""), 60 * time.Second, 5 * time.Second, "consumer.session.timeout.ms must be less than or equal to group.consumer.max.session.timeout.ms"},
		{own("", "4999"), 45 * time.Second, 5 * time.Second, "consumer.heartbeat.interval.ms must be greater than or equal to group.consumer.min.heartbeat.interval.ms"},
		{own("", "15001"), 45 * time.Second, 15 * time.Second, "consumer.heartbeat.interval.ms must be less than or equal to group.consumer.max.heartbeat.interval.ms"},
	} {
		session, heartbeat := kafkas.Of(c.own)
		require.Equal(t, c.session, session)
		require.Equal(t, c.heartbeat, heartbeat)
		if err := kafkas.Check(c.own); c.refused == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.refused)
			require.Equal(t, federation.InvalidConfig, federation.KindOf(err))
		}
	}

	// What one sets is measured against what holds of the other.
	wide := federation.GroupSettings{SessionTimeout: federation.GroupSetting{Default: 10 * time.Second, Min: time.Second}, HeartbeatInterval: federation.GroupSetting{Max: time.Minute}}.WithDefaults()
	require.NoError(t, wide.Validate())
	require.ErrorContains(t, wide.Check(own("", "10000")), "must be greater than consumer.heartbeat.interval.ms")
	session, heartbeat := wide.Of(own("", "10000"))
	require.Less(t, heartbeat, session, "a coordinator with other settings than the gateway that took it")

	for _, bad := range []federation.GroupSettings{
		{SessionTimeout: federation.GroupSetting{Default: time.Minute, Max: 50 * time.Second}},
		{SessionTimeout: federation.GroupSetting{Min: 50 * time.Second}},
		{HeartbeatInterval: federation.GroupSetting{Min: 9 * time.Second, Max: 8 * time.Second, Default: 8500 * time.Millisecond}},
		{HeartbeatInterval: federation.GroupSetting{Min: -1}},
	} {
		require.Error(t, bad.WithDefaults().Validate())
	}
}
