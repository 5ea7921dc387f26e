package main

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// runGroups has many members in groups on one gateway, each on a connection of its own:
// how long they take to be settled, and what heartbeats and commits cost then.
func runGroups(b *bench) report {
	w := b.real()
	partitions := b.size(2000, 50)
	topic := b.topicName()
	w.braid("topic", "create", topic, "--partitions", strconv.Itoa(partitions), "--clusters", "a")
	defer w.drop(topic)
	many := w.crowd(topic, partitions, b.size(100, 5), b.size(100, 10))
	one := w.crowd(topic, partitions, 1, b.size(1500, 50))
	r := report{
		notes: []string{"Each member is a connection and commits one partition of its own. Heartbeats come every 3 s and paced commits every 5 s from each member, as from SDKs by default; unpaced ones one after the other from all members at once, and their time is that of standing in line."},
		tables: []table{{
			header: []string{"groups × members", "from the first JoinGroup to all assigned", "live heap and stack for each member", "for each connection before it joined", "heartbeats/s", "gateway CPU", "Redis CPU"},
		}, {
			header: []string{"groups × members", "commits", "commits/s", "p50", "p99", "commits for each round trip to Redis", "gateway CPU µs/commit", "Redis CPU µs/commit"},
		}},
	}
	for _, c := range []crowdFound{many, one} {
		r.tables[0].rows = append(r.tables[0].rows, c.settled)
		r.tables[1].rows = append(r.tables[1].rows, c.paced, c.unpaced)
	}
	members := figure(float64(many.members))
	r.goals = []goal{
		atMost(members+" members in 100 groups, heartbeats every 3 s: gateway CPU", " ms/s", 250, many.heartbeatCPU),
		atMost(members+" members in 100 groups: from the first JoinGroup to all assigned", " s", 10, many.join.Seconds()),
		atMost(members+" members in 100 groups: live heap and stack for each, connection included", " KB", 35, many.memory),
		atLeast(members+" members in 100 groups: commits/s", "", 10_000, many.rate),
		atMost(members+" members in 100 groups, each commits every 5 s: p99", " ms", 50, millis(quantile(many.latency, 0.99))),
		atMost("one group of 1,500 members: from the first JoinGroup to all assigned", " s", 5, one.join.Seconds()),
	}
	return r
}

// crowdFound is what a crowd of members showed.
type crowdFound struct {
	members                 int
	settled, paced, unpaced []string
	join                    time.Duration
	memory, heartbeatCPU    float64
	rate                    float64
	latency                 []time.Duration // of paced commits
}

// A groupMember is one connection.
type groupMember struct {
	conn       *rawClient
	group, id  string
	generation int32
	commit     []byte // the request
	heartbeat  []byte
}

// crowd measures groups of some members each.
func (w *world) crowd(topic string, partitions, groups, each int) (found crowdFound) {
	b := w.b
	n := groups * each
	found.members = n
	before := w.live(gateway)
	members := make([]*groupMember, n)
	for i := range members {
		members[i] = &groupMember{conn: dialRaw(w.facade), group: fmt.Sprintf("%s-%dx%d-%d", topic, groups, each, i/each)}
		defer members[i].conn.close()
		members[i].conn.ask(kmsg.NewPtrApiVersionsRequest(), 3)
	}
	connected := w.live(gateway)
	start := time.Now()
	together(members, func(m *groupMember) { m.join() })
	found.join = time.Since(start)
	for i, m := range members {
		m.prepare(topic, int32(i%each%partitions))
	}
	total, conn := (w.live(gateway)-before)/float64(n)/1000, (connected-before)/float64(n)/1000
	found.memory = total
	seconds := b.lasting(12*time.Second, time.Second)
	name := fmt.Sprintf("%s × %s", figure(float64(groups)), figure(float64(each)))
	profile := w.profileBraid("groups-heartbeats")
	spent, _ := w.inPace(members, 3*time.Second, seconds, func(m *groupMember) { m.beat() })
	profile()
	found.heartbeatCPU = millis(spent.cpu[gateway]) / spent.took.Seconds()
	found.settled = []string{
		name, fmt.Sprintf("%.1f s", found.join.Seconds()), figure(total) + " KB", figure(conn) + " KB", figure(spent.recordsPerS()),
		figure(found.heartbeatCPU) + " ms/s", figure(millis(spent.cpu[redisName])/spent.took.Seconds()) + " ms/s",
	}
	row := func(kind string, u used, took []time.Duration, trips float64) []string {
		each := func(p string) string { return figure(float64(u.cpu[p].Microseconds()) / float64(u.records)) }
		return []string{name, kind, figure(u.recordsPerS()), ms(quantile(took, 0.5)), ms(quantile(took, 0.99)), figure(float64(u.records) / trips), each(gateway), each(redisName)}
	}
	trips := w.metrics(gateway)[metricGroupTrips]
	spent, took := w.inPace(members, 5*time.Second, seconds, func(m *groupMember) { m.store() })
	after := w.metrics(gateway)[metricGroupTrips]
	found.paced, found.latency = row("every 5 s from each", spent, took, after-trips), took
	trips = after
	profile = w.profileBraid("groups-commits")
	spent, took = w.inPace(members, 0, b.lasting(5*time.Second, time.Second), func(m *groupMember) { m.store() })
	profile()
	found.rate = spent.recordsPerS()
	found.unpaced = row("as fast as they are answered", spent, took, w.metrics(gateway)[metricGroupTrips]-trips)
	together(members, func(m *groupMember) { m.leave() })
	return found
}

func together(members []*groupMember, do func(*groupMember)) {
	var all sync.WaitGroup
	for _, m := range members {
		all.Go(func() { do(m) })
	}
	all.Wait()
}

// inPace has each member do something again and again, spread over the pace, or at once
// again if that is zero. It returns what that took, by member and time.
func (w *world) inPace(members []*groupMember, pace, d time.Duration, do func(*groupMember)) (used, []time.Duration) {
	took := make([][]time.Duration, len(members))
	u := w.measure(0, 0, func() {
		begin := time.Now()
		var all sync.WaitGroup
		for i, m := range members {
			all.Go(func() {
				next := begin.Add(pace * time.Duration(i) / time.Duration(len(members)))
				for next.Sub(begin) < d && time.Since(begin) < d {
					w.b.wait(time.Until(next))
					start := time.Now()
					do(m)
					took[i] = append(took[i], time.Since(start))
					if next = next.Add(pace); pace == 0 {
						next = time.Now()
					}
				}
			})
		}
		all.Wait()
	})
	all := slices.Concat(took...)
	u.records = int64(len(all))
	return u, all
}

func ask[R kmsg.Response](m *groupMember, req kmsg.Request, version int16, resp R) R {
	req.SetVersion(version)
	resp.SetVersion(version)
	check(resp.ReadFrom(m.conn.exchange(kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1))))
	return resp
}

// join goes through a rebalance, and the next if that was not the last. The leader gives
// all of them the same, which the gateway does not look into.
func (m *groupMember) join() {
	for {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Group, req.MemberID, req.ProtocolType = m.group, m.id, "bench"
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 45_000, 60_000
		req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: make([]byte, 40)}}
		j := ask(m, req, 5, kmsg.NewPtrJoinGroupResponse())
		m.id = j.MemberID
		if j.ErrorCode == kerr.MemberIDRequired.Code {
			continue
		}
		checkCode("JoinGroup", j.ErrorCode)
		m.generation = j.Generation
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = m.group, m.id, m.generation
		for _, o := range j.Members {
			sync.GroupAssignment = append(sync.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: o.MemberID, MemberAssignment: make([]byte, 40)})
		}
		s := ask(m, sync, 3, kmsg.NewPtrSyncGroupResponse())
		if s.ErrorCode == kerr.RebalanceInProgress.Code {
			continue
		}
		checkCode("SyncGroup", s.ErrorCode)
		return
	}
}

// prepare encodes what the member sends many times.
func (m *groupMember) prepare(topic string, partition int32) {
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench"))
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.SetVersion(3)
	beat.Group, beat.MemberID, beat.Generation = m.group, m.id, m.generation
	m.heartbeat = f.AppendRequest(nil, beat, 1)
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.SetVersion(7)
	commit.Group, commit.MemberID, commit.Generation = m.group, m.id, m.generation
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = partition, 1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
	m.commit = f.AppendRequest(nil, commit, 1)
}

func (m *groupMember) beat() {
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.SetVersion(3)
	check(resp.ReadFrom(m.conn.exchange(m.heartbeat)))
	checkCode("Heartbeat", resp.ErrorCode)
}

// store commits, again if Redis was too slow, as SDKs do.
func (m *groupMember) store() {
	for {
		resp := kmsg.NewPtrOffsetCommitResponse()
		resp.SetVersion(7)
		check(resp.ReadFrom(m.conn.exchange(m.commit)))
		code := resp.Topics[0].Partitions[0].ErrorCode
		if code == kerr.CoordinatorLoadInProgress.Code {
			continue
		}
		checkCode("OffsetCommit", code)
		return
	}
}

func (m *groupMember) leave() {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = m.group, m.id
	checkCode("LeaveGroup", ask(m, req, 1, kmsg.NewPtrLeaveGroupResponse()).ErrorCode)
}

func checkCode(what string, code int16) {
	if err := kerr.ErrorForCode(code); err != nil {
		check(fmt.Errorf("%s: %w", what, err))
	}
}
