package groups

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/braidmq/braid/federation"
	"github.com/braidmq/braid/internal/redisstore"
)

// TestGroup runs the scripts in testdata/group: each line is an event of one group, below
// it is what the step asks for. Verbs:
//
//	topics t=2 u=3                          the topics of the map, with their partitions
//	join [id=] [instance=] [client=] [protocols=range,roundrobin] [topics=t,u] [owned=t-0,t-1]
//	     [session=10s] [rebalance=30s] [type=consumer] [require] [skip]
//	sync id= gen= [assign=member:t-0,t-1;member2:...]
//	heartbeat id= gen=      (gen=now is the present generation)
//	leave id=... [instance=]
//	subscribe [client=] [topics=] [regex=] [id= epoch= owned=] [instance=] [former=]
//	consumer id= [epoch=0] [topics=] [regex=] [owned=t-0,t-1|none] [rebalance=20s] [assignor=] [instance=]
//	     (KIP-848; with epoch=0 what is not said is topics=t owned=none rebalance=20s)
//	revoked id= t-0 t-1     detach stream=
//	commit [id=] [gen=] [member] t-0=5
//	deleteoffsets t-0       delete      describe
//	after 3s                time passes; what is due happens at its time
//	reload                  another coordinator takes over from what is stored
//	state                   members, what they should have and what they may be reading
func TestGroup(t *testing.T) {
	datadriven.Walk(t, "testdata/group", func(t *testing.T, path string) {
		s := newScript()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			s.run(t, d)
			s.check(t, d.Pos)
			return s.out.String()
		})
	})
}

// A script is a group with a clock, a store and a network of its own.
type script struct {
	cfg     Config
	g       *group
	now     time.Time
	m       *federation.Map
	stored  map[string][]byte
	offsets map[redisstore.OffsetKey]redisstore.GroupOffset
	streams int
	ids     int
	calls   int
	out     strings.Builder
}

func newScript() *script {
	s := &script{now: time.Unix(1_700_000_000, 0), stored: map[string][]byte{}, offsets: map[redisstore.OffsetKey]redisstore.GroupOffset{}}
	s.cfg = Config{InitialRebalanceDelay: 3 * time.Second, MembersMax: 5, NewID: func() string { s.ids++; return strconv.Itoa(s.ids) }}.withDefaults()
	s.m = testMap(nil)
	s.g = newGroup("g", &s.cfg, s.m, s.now)
	return s
}

// testMap makes a map of topics; a topic keeps its id while it stays in the map.
func testMap(before *federation.Map, topics ...string) *federation.Map {
	m := &federation.Map{LogicalCluster: "default", Topics: map[federation.TopicName]*federation.Topic{}}
	for _, topic := range topics {
		name, count, _ := strings.Cut(topic, "=")
		t := &federation.Topic{Name: federation.TopicName(name), ID: federation.NewTopicID()}
		if before != nil && before.Topics[t.Name] != nil {
			t.ID = before.Topics[t.Name].ID
		}
		var n int
		_, _ = fmt.Sscan(count, &n)
		for p := range n {
			t.Partitions = append(t.Partitions, &federation.Partition{Topic: t.Name, Number: federation.LogicalPartition(p)})
		}
		m.Topics[t.Name] = t
	}
	return m.Seal()
}

func (s *script) run(t *testing.T, d *datadriven.TestData) {
	arg := func(name, def string) string {
		for _, a := range d.CmdArgs {
			if a.Key == name {
				if len(a.Vals) == 0 {
					return "yes"
				}
				return strings.Join(a.Vals, ",")
			}
		}
		return def
	}
	rest := func() (words []string) {
		for _, a := range d.CmdArgs {
			if len(a.Vals) == 0 {
				words = append(words, a.Key)
			}
		}
		return words
	}
	s.calls++
	to := d.Cmd
	if id := arg("id", ""); id != "" {
		to += " " + id
	}
	switch d.Cmd {
	case "topics":
		var topics []string
		for _, a := range d.CmdArgs {
			topics = append(topics, a.Key+"="+a.Vals[0])
		}
		s.m = testMap(s.m, topics...)
		s.step(evTopics{s.m})
	case "join":
		s.step(evJoin{to, new(s.join(t, arg))})
	case "sync":
		s.step(evSync{to, SyncRequest{Group: "g", MemberID: arg("id", ""), InstanceID: arg("instance", ""), Generation: s.generation(t, arg("gen", "0")), ProtocolName: arg("protocol", ""), Assignments: assignments(d.Input)}})
	case "heartbeat":
		s.step(evHeartbeat{to, HeartbeatRequest{MemberID: arg("id", ""), InstanceID: arg("instance", ""), Generation: s.generation(t, arg("gen", "0"))}})
	case "leave":
		s.step(evLeave{to, []LeavingMember{{MemberID: arg("id", ""), InstanceID: arg("instance", "")}}})
	case "subscribe":
		s.streams++
		s.step(evSubscribe{to: to, handle: fmt.Sprintf("stream%d", s.streams), r: SubscribeRequest{
			ClientID: arg("client", "c"), InstanceID: arg("instance", ""), FormerID: arg("former", ""), Topics: names(arg("topics", "")), TopicRegex: arg("regex", ""),
			MemberID: arg("id", ""), MemberEpoch: int64(number(t, arg("epoch", "0"))), Owned: partitions(arg("owned", "")),
			SessionTimeout: 10 * time.Second, RebalanceTimeout: 20 * time.Second,
		}})
	case "consumer":
		s.step(evConsumerHeartbeat{to, s.consumer(t, arg)})
	case "revoked":
		s.step(evRevoked{to, arg("id", ""), partitions(strings.Join(rest(), ","))})
	case "detach":
		s.step(evDetach{arg("stream", "")})
	case "commit":
		s.commit(t, d, to, arg)
	case "deleteoffsets":
		s.step(evDeleteOffsets{to, partitions(strings.Join(rest(), ","))})
	case "delete":
		s.step(evDelete{to})
	case "describe":
		s.step(evDescribe{to})
	case "expire":
		var all []redisstore.GroupOffset
		for _, o := range s.offsets {
			all = append(all, o)
		}
		s.step(evExpire{all})
	case "after":
		dur, err := time.ParseDuration(rest()[0])
		require.NoError(t, err)
		s.pass(dur, arg("silent", "") != "")
	case "reload":
		g, err := loadGroup("g", &s.cfg, s.m, s.stored, s.now)
		require.NoError(t, err, d.Pos)
		s.g = g
		s.step(evTopics{s.m})
	case "state":
		s.state()
	default:
		t.Fatalf("%s: unknown verb %q", d.Pos, d.Cmd)
	}
}

func (s *script) join(t *testing.T, arg func(string, string) string) JoinRequest {
	session, err := time.ParseDuration(arg("session", "10s"))
	require.NoError(t, err)
	rebalance, err := time.ParseDuration(arg("rebalance", "30s"))
	require.NoError(t, err)
	r := JoinRequest{
		Group: "g", MemberID: arg("id", ""), InstanceID: arg("instance", ""), ClientID: arg("client", "k"),
		ProtocolType: arg("type", "consumer"), SessionTimeout: session, RebalanceTimeout: rebalance,
		RequireMemberID: arg("require", "") != "", CanSkipAssignment: arg("skip", "") != "",
	}
	for _, name := range strings.FieldsFunc(arg("protocols", "range"), func(r rune) bool { return r == ',' }) {
		r.Protocols = append(r.Protocols, Protocol{name, subscriptionBytes(names(arg("topics", "t")), partitions(arg("owned", "")))})
	}
	return r
}

func (s *script) consumer(t *testing.T, arg func(string, string) string) ConsumerHeartbeatRequest {
	r := ConsumerHeartbeatRequest{
		Group: "g", MemberID: arg("id", ""), InstanceID: arg("instance", ""), Epoch: number(t, arg("epoch", "0")), ClientID: "k",
		Assignor: arg("assignor", ""), RebalanceTimeout: -1,
	}
	topics, owned, rebalance, regex := arg("topics", ""), arg("owned", ""), arg("rebalance", ""), arg("regex", "")
	if r.Epoch == epochJoin {
		owned = "none"
		if topics == "" && regex == "" {
			topics = "t"
		}
		if rebalance == "" {
			rebalance = "20s"
		}
	}
	if topics != "" {
		r.Topics = names(topics)
	}
	if regex != "" {
		r.TopicRegex = &regex
	}
	if owned != "" {
		r.Owned = append([]federation.TopicPartition{}, partitions(owned)...)
	}
	if rebalance != "" {
		var err error
		r.RebalanceTimeout, err = time.ParseDuration(rebalance)
		require.NoError(t, err)
	}
	return r
}

func (s *script) commit(t *testing.T, d *datadriven.TestData, to string, arg func(string, string) string) {
	r := CommitRequest{MemberID: arg("id", ""), Generation: s.generation(t, arg("gen", "-1"))}
	for _, a := range d.CmdArgs {
		if tps := partitions(a.Key); len(tps) == 1 && len(a.Vals) == 1 {
			r.Offsets = append(r.Offsets, CommitOffset{TopicPartition: tps[0], Offset: federation.LogicalOffset(number(t, a.Vals[0])), Metadata: arg("metadata", "")})
		}
	}
	s.step(evCommit{to: to, r: r, connect: arg("member", "") != ""})
}

// pass lets time pass, from one due moment to the next.
func (s *script) pass(d time.Duration, silent bool) {
	end := s.now.Add(d)
	for due := s.g.due(); !due.IsZero() && !due.After(end); due = s.g.due() {
		s.now = due
		s.step(evTick{heard: func(any) time.Time {
			if silent {
				return time.Time{}
			}
			return s.now
		}})
	}
	s.now = end
}

func (s *script) step(ev any) {
	fx := s.g.step(s.now, ev)
	for _, r := range fx.records {
		if r.Value == nil {
			delete(s.stored, r.Field)
		} else {
			s.stored[r.Field] = r.Value
		}
	}
	for _, o := range fx.offsets {
		s.offsets[o.OffsetKey] = o
		fmt.Fprintf(&s.out, "store %s = %d\n", s.name(o.OffsetKey), o.Offset)
	}
	for _, k := range fx.dropped {
		delete(s.offsets, k)
		fmt.Fprintf(&s.out, "drop %s\n", s.name(k))
	}
	for _, r := range fx.replies {
		fmt.Fprintf(&s.out, "%s -> %s\n", r.to, show(r))
	}
	for _, e := range fx.events {
		fmt.Fprintf(&s.out, "%s (%s) epoch %d:", e.handle, e.member, e.epoch)
		for _, part := range []struct {
			name string
			tps  []federation.TopicPartition
		}{{"assigned", e.assigned}, {"revoking", e.revoking}, {"lost", e.lost}} {
			if len(part.tps) > 0 {
				fmt.Fprintf(&s.out, " %s %v", part.name, part.tps)
			}
		}
		fmt.Fprintln(&s.out)
	}
	for _, c := range fx.closed {
		fmt.Fprintf(&s.out, "%s closed: %v\n", c.handle, c.err)
	}
	if fx.remove {
		fmt.Fprintln(&s.out, "group deleted")
		s.stored, s.offsets = map[string][]byte{}, map[redisstore.OffsetKey]redisstore.GroupOffset{}
		s.g = newGroup("g", &s.cfg, s.m, s.now)
	}
}

func (s *script) name(k redisstore.OffsetKey) string {
	if t := s.m.TopicByID(k.Topic); t != nil {
		return fmt.Sprintf("%s-%d", t.Name, k.Partition)
	}
	return fmt.Sprintf("deleted topic-%d", k.Partition)
}

func show(r reply) string {
	if r.err != nil {
		text := r.err.Error()
		if j, ok := r.value.(JoinResponse); ok && j.MemberID != "" {
			text += " [" + j.MemberID + "]"
		}
		return text
	}
	switch v := r.value.(type) {
	case JoinResponse:
		text := fmt.Sprintf("member %s generation %d protocol %s leader %s", v.MemberID, v.Generation, v.ProtocolName, v.LeaderID)
		if v.SkipAssignment {
			text += " skip"
		}
		var textSb273 strings.Builder
		for i, m := range v.Members {
			if i == 0 {
				textSb273.WriteString(" members")
			}
			textSb273.WriteString(" " + m.MemberID)
		}
		text += textSb273.String()
		return text
	case SyncResponse:
		if tps := decodeAssignment(v.Assignment); v.ProtocolType == consumerProtocol {
			return fmt.Sprintf("assigned %v", tps)
		}
		return fmt.Sprintf("assigned %q", v.Assignment)
	case []error:
		parts := make([]string, len(v))
		for i, err := range v {
			if parts[i] = "ok"; err != nil {
				parts[i] = err.Error()
			}
		}
		return strings.Join(parts, "; ")
	case ConsumerHeartbeatResponse:
		var text strings.Builder
		fmt.Fprintf(&text, "member %s epoch %d", v.MemberID, v.Epoch)
		if v.Assignment != nil {
			text.WriteString(" reads")
		}
		for _, a := range v.Assignment {
			fmt.Fprintf(&text, " %s%v", a.Topic, a.Partitions)
		}
		return text.String()
	case subscribed:
		return "member " + v.id
	case Description:
		var text strings.Builder
		fmt.Fprintf(&text, "%s epoch %d %s %s", v.State, v.Epoch, v.ProtocolType, v.ProtocolName)
		if v.Type == TypeConsumer {
			fmt.Fprintf(&text, " %s %s", v.Type, v.Assignor)
		}
		for _, m := range v.Members {
			fmt.Fprintf(&text, "\n  %s %s %v", m.MemberID, m.Protocol, m.Partitions)
			if v.Type == TypeConsumer {
				fmt.Fprintf(&text, " of %v epoch %d topics %v regex %q", m.Target, m.Epoch, m.Topics, m.Regex)
			}
		}
		return text.String()
	default:
		return "ok"
	}
}

func (s *script) state() {
	fmt.Fprintf(&s.out, "%s epoch %d generation %d leader %q protocol %q\n", s.g.state, s.g.epoch, s.g.generation, s.g.leader, s.g.protocol)
	for _, m := range s.g.ordered() {
		if m.modern != nil {
			fmt.Fprintf(&s.out, "  epoch %d:", m.modern.epoch)
		}
		fmt.Fprintf(&s.out, "  %s should have %v, may read %v\n", m.id, sortedKeys(m.target), sortedKeys(m.owned))
	}
}

// check is what must hold after every event.
func (s *script) check(t *testing.T, pos string) {
	t.Helper()
	readers := map[federation.TopicPartition]string{}
	for _, m := range s.g.ordered() {
		for tp := range m.owned {
			if s.g.hasStepwise() {
				require.Empty(t, readers[tp], "%s: %s may be read by %s too", pos, tp, m.id)
			}
			readers[tp] = m.id
		}
	}
	for id := range s.g.static {
		require.NotNil(t, s.g.members[s.g.static[id]], "%s: instance %s", pos, id)
	}
	// What is stored is what a new coordinator needs.
	if len(s.stored) > 0 {
		g, err := loadGroup("g", &s.cfg, s.m, s.stored, s.now)
		require.NoError(t, err, pos)
		require.Equal(t, s.g.epoch, g.epoch, pos)
		require.Len(t, g.members, len(s.g.members), pos)
		for id, m := range s.g.members {
			require.Equal(t, m.stored(), g.members[id].stored(), "%s: member %s", pos, id)
		}
	}
	if due := s.g.due(); !due.IsZero() {
		require.True(t, due.After(s.now) || due.Equal(s.now) || s.g.state == stateDead, "%s: something is overdue", pos)
	}
}

// generation reads a gen argument; now is the present one.
func (s *script) generation(t *testing.T, text string) int32 {
	if text == "now" {
		return s.g.generation
	}
	return number(t, text)
}

func number(t *testing.T, text string) int32 {
	t.Helper()
	var n int32
	_, err := fmt.Sscan(text, &n)
	require.NoError(t, err)
	return n
}

func names(list string) (out []federation.TopicName) {
	for _, n := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		out = append(out, federation.TopicName(n))
	}
	return out
}

// partitions reads t-0,t-1.
func partitions(list string) (out []federation.TopicPartition) {
	for _, text := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		i := strings.LastIndexByte(text, '-')
		var p federation.LogicalPartition
		if i < 0 {
			continue
		}
		if _, err := fmt.Sscan(text[i+1:], &p); err != nil {
			continue
		}
		out = append(out, federation.TopicPartition{Topic: federation.TopicName(text[:i]), Partition: p})
	}
	return out
}

// assignments reads lines of the form: member t-0,t-1
func assignments(input string) (out []MemberAssignment) {
	for line := range strings.SplitSeq(input, "\n") {
		if member, list, ok := strings.Cut(line, " "); ok {
			out = append(out, MemberAssignment{member, encodeAssignment(0, partitions(list))})
		}
	}
	return out
}

func subscriptionBytes(topics []federation.TopicName, owned []federation.TopicPartition) []byte {
	m := kmsg.ConsumerMemberMetadata{Version: 1}
	for _, n := range topics {
		m.Topics = append(m.Topics, string(n))
	}
	for _, tp := range owned {
		i := slices.IndexFunc(m.OwnedPartitions, func(o kmsg.ConsumerMemberMetadataOwnedPartition) bool { return o.Topic == string(tp.Topic) })
		if i < 0 {
			i = len(m.OwnedPartitions)
			m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: string(tp.Topic)})
		}
		m.OwnedPartitions[i].Partitions = append(m.OwnedPartitions[i].Partitions, int32(tp.Partition))
	}
	return m.AppendTo(nil)
}
