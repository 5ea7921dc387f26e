package suite

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/braidmq/braid/test/world"
)

func (s *suite) recovery() []test {
	return []test{
		{"Redis loses everything while all others run", func(t *testing.T) { s.testRedisLost(t, nil) }},
		{"Redis loses everything, and no controller is left", func(t *testing.T) { s.testRedisLost(t, s.w.Controllers) }},
		{"Redis loses everything, and nothing else is left", func(t *testing.T) {
			s.testRedisLost(t, slices.Concat(s.w.Controllers, s.w.Gateways))
		}},
	}
}

// recover runs the command with one of the clusters, which leads to the others.
func (s *suite) recover(t *testing.T, more ...string) (string, error) {
	t.Helper()
	c := s.w.Clusters[0]
	args := append([]string{"recover", "--redis", s.w.Redis.URL(), "--cluster", c.Name + "=" + strings.Join(c.Seeds, ",")}, more...)
	out, errs, err := s.w.Braid(call(t), "", args...)
	t.Logf("braid %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	return out, err
}

var lastBackup = regexp.MustCompile(`backup of \d+ offsets, the last of (\S+)`)

// awaitBackup waits for a backup that was begun after now, of all logical clusters that have any.
func (s *suite) awaitBackup(t *testing.T) {
	t.Helper()
	now := time.Now()
	eventually(t, func() bool {
		out, errs, err := s.w.Braid(call(t), "", "recover", "--redis", s.w.Redis.URL(), "--cluster", s.w.Clusters[0].Name+"="+strings.Join(s.w.Clusters[0].Seeds, ","), "--dry-run")
		require.NoError(t, err, "%s%s", out, errs)
		backups := 0
		for i, of := range strings.Split(out, "tenant ") { // the first is of the deployment's own
			if i > 0 && !strings.HasPrefix(of, "acme:") {
				continue // it may have no groups any more
			}
			newest := time.Time{} // a cluster that stood in for another has an old one
			for _, m := range lastBackup.FindAllStringSubmatch(of, -1) {
				at, err := time.Parse(time.RFC3339, m[1])
				require.NoError(t, err)
				if backups++; at.After(newest) {
					newest = at
				}
			}
			if !newest.IsZero() && !newest.After(now) {
				return false
			}
		}
		return backups > 0 && (len(s.w.Gateways[0].Tenants) == 0 || strings.Contains(out, "tenant acme:"))
	}, "a backup of offsets")
}

// readAsGroup reads exactly count records as the only member of a group, and commits.
func (s *suite) readAsGroup(t *testing.T, group, topic string, count int) {
	t.Helper()
	client := s.client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	defer client.Close()
	poll(t, client, count)
	require.NoError(t, client.CommitUncommittedOffsets(call(t)))
}

// testRedisLost stops some nodes, has Redis lose everything, recovers, and starts
// them again: offsets, groups and producers go on where they were.
func (s *suite) testRedisLost(t *testing.T, stopped []*world.Node) {
	topic, group := s.topic(t, 6), name(t)
	producer := s.client(t)
	s.fillWith(t, producer, topic, 0, 100)
	for _, c := range s.w.Clusters[:2] { // whichever it was on, it moves at least once
		s.move(t, topic, c.Name, 0)
	}
	s.fillWith(t, producer, topic, 100, 100)
	s.readAsGroup(t, group, topic, 200)
	acme := s.beforeLoss(t, "acme")
	require.NoError(t, s.alterGroup(t, group, map[string]string{groupSession: "55000"}))
	s.awaitBackup(t)
	before, heads := s.describe(t, topic), s.heads(t, topic)

	for _, n := range stopped {
		s.endFor(t, n, func(n *world.Node) { require.NoError(t, n.Stop()) })
	}
	s.w.Redis.Wipe()
	eventually(t, func() bool {
		_, err := s.recover(t)
		return err == nil
	}, "the recovery")
	for _, n := range stopped {
		require.NoError(t, n.Start())
	}

	// The same producer, and the group, go on.
	eventually(t, func() bool {
		_, _, err := s.w.Braid(short(t), "", "topic", "describe", topic)
		return err == nil
	}, "the topic is there")
	require.Equal(t, heads, s.heads(t, topic))
	require.Equal(t, before, s.describe(t, topic), "the same extents, at the same offsets")
	s.fillWith(t, producer, topic, 200, 50)
	require.Equal(t, int64(250), s.end(t, topic))
	s.read(t, topic, 250)
	s.readAsGroup(t, group, topic, 50)
	s.afterLoss(t, acme)
	s.awaitGroupConfig(t, group, groupSession, "55000")
	require.NoError(t, s.alterGroup(t, group, map[string]string{groupSession: ""}))

	// And so do changes.
	s.move(t, topic, s.w.Clusters[0].Name, 1, 2)
	s.move(t, topic, s.w.Clusters[1].Name, 1, 2)
	other := s.topic(t, 2)
	s.fillWith(t, producer, other, 0, 20)
	s.fillWith(t, producer, topic, 250, 50)
	s.readAsGroup(t, group, topic, 50)
	eventually(t, func() bool {
		out, err := s.recover(t, "--dry-run")
		return err == nil && strings.Contains(out, "it stays")
	}, "the map is in the journals again")
}
