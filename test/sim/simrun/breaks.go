package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A breach leaves a rule of the design out.
type breach struct {
	name, what string
	edits      []edit
	failing    bool // it takes a cluster that is failed over
}

// breaches are rules of docs/architecture.md and docs/model that a simulation must
// miss. The texts are those of the product: a change there is made here, too.
var breaches = []breach{
	{"lease", "gateways append and acknowledge without a lease", []edit{
		{"gateway/mapwatch/mapwatch.go", "return time.Since(w.start) < time.Duration(w.leaseUntil.Load())", "return true"},
		{"gateway/mapwatch/mapwatch.go", "func (w *Watch) Gaps() int64 { return w.leaseGaps.Load() }", "func (w *Watch) Gaps() int64 { return 0 }"},
	}, false},
	{"held", "a head is sealed before the gateways have stopped appending", []edit{
		{"controller/held.go", "	missing, _ := f.unreachableLocked(now)\n", "	var missing []federation.GatewayID\n"},
		{"controller/held.go", "		if !s.held.holds(v, moves) {\n", "		if false {\n"},
	}, false},
	{"drain", "a gateway says that it holds a head while appends are in flight", []edit{
		{"gateway/router/hold.go", "p != nil && len(p.flying) > 0 {", "p != nil && len(p.flying) < 0 {"},
	}, false},
	{"carry", "what the old extent knew of its producers is not carried over", []edit{
		{"controller/seal.go", "s.producer, e.producers, s.batchBytes, now)", "s.producer, nil, s.batchBytes, now)"},
	}, false},
	{"seal-record", "the end of an extent is read, and no seal record is written", []edit{
		{"controller/seal.go", "	seals := c.AppendMarks(ctx, appends)\n", `	seals := make([]upstream.AppendedAt, len(parts))
	for j, e := range c.Ends(ctx, parts) {
		seals[j].Offset, seals[j].Err = e.LogEnd, e.Err
	}
`},
	}, false},
	{"unwind", "what was written behind the seal counts as carried", []edit{
		{"controller/seal.go", "	if ends.LogEnd <= behind {\n", "	if behind >= 0 {\n"},
	}, false},
	{"first", "a producer may open a head with any sequence", []edit{
		{"gateway/router/head.go", "	case known:\n		return verdictSend\n", "	case known || next >= 0:\n		return verdictSend\n"},
	}, false},
	{"used-partition", "a head moves to a physical partition that was used before", []edit{
		{"controller/planner/moves.go", "		x.next = max(existing[x.name], b.foreign[physicalName{x.name, name}])\n", "		x.next = 0\n"},
		{"controller/planner/moves.go", "				x.next = max(x.next, int32(e.Partition)+1)\n", "				x.next = max(x.next, 0)\n"},
	}, false},
	{"patch-twice", "the batches of an answer are patched twice", []edit{
		{"gateway/router/fetch.go", "if len(got.data) == 0 && f.s.r.mayStamp(", "if f.s.r.mayStamp("},
	}, false},
	{"sent-again", "a restore does not look for what producers have sent again", []edit{
		{"controller/restore_copy.go", "	return p != nil && p.found && ", "	return false && p.found && "},
	}, true},
	{"restore-carry", "what a returned extent knew of its producers is not carried over", []edit{
		{"controller/restore_roll.go", "return h, endedHead{producers: told[h.Partition]}\n", "return h, endedHead{producers: []mark.Producer{{ID: 1 << 40}}}\n"},
	}, true},
	{"restore-roll", "a restore looks for what was sent again in a head that goes on", []edit{
		{"controller/restore_roll.go", "	return x.Carried > 0 && !slices", "	return true || !slices"},
	}, true},
	{"known-before", "a failover forgets what the extents before the failed one knew", []edit{
		{"controller/failover_known.go", "	known := s.knownBefore(ctx, heads)\n", "	known := make([]endedHead, len(heads))\n"},
	}, true},
	{"tenant-topic", "the session of a tenant's client reaches the topic of another logical cluster", []edit{
		{"gateway/router/scoped.go", "		tp.Topic = federation.Qualify(s.tenant, tp.Topic)\n", "		tp.Topic = federation.Qualify(\"\", tp.Topic)\n"},
	}, false},
	{"tenant-group", "the groups of a tenant are those of another logical cluster", []edit{
		{"federation/split.go", "		m.LogicalCluster, m.ClusterID = t.Name, t.ClusterID\n", "		m.ClusterID, _ = s.base.ClusterID, t\n"},
	}, false},
	{"tenant-again", "a tenant that is deleted leaves its topics to the next one of its name", []edit{
		{"controller/tenant_rpc.go", "	if err := t.deleteTopics(ctx, topics); err != nil {\n", "	if err := t.deleteTopics(ctx, nil); err != nil {\n"},
		{"controller/planner/tenant.go", "	if n := len(TenantTopics(m, name)); n > 0 {\n", "	if n := len(TenantTopics(m, name)); n < 0 {\n"},
	}, false},
	{"848-held", "a member of KIP-848 is given a partition that another one has not given up", []edit{
		{"gateway/groups/modern.go", "		if !held[tp] {\n", "		if !held[tp] || true {\n"},
	}, false},
	{"848-revoking", "a partition is free as soon as its member of KIP-848 has been told to give it up", []edit{
		{"gateway/groups/modern.go", "				m.revoking[tp] = g.now.Add(m.rebalance)\n				g.wakeAt(m.revoking[tp])\n", "				g.free(m, tp)\n				freed = true\n"},
	}, false},
	{"848-stale", "a member of KIP-848 commits in an epoch that is over", []edit{
		{"gateway/groups/offsets.go", "got, ok := m.owned[o.TopicPartition]; r.Generation != m.modern.epoch && (!ok || int64(r.Generation) < got) {", "got, ok := m.owned[o.TopicPartition]; got < 0 && ok {"},
	}, false},
}

// runBreaks shows for each rule that is left out the first seed that fails.
func (o *options) runBreaks(ctx context.Context, name string) error {
	missed := 0
	for _, b := range breaches {
		if name != "all" && name != b.name {
			continue
		}
		seed, problem, err := o.runBreak(ctx, b)
		if err != nil {
			return fmt.Errorf("break %s: %w", b.name, err)
		}
		if problem == "" {
			missed++
			problem = fmt.Sprintf("NOT NOTICED by seeds %d-%d", o.from, o.to)
		}
		say("%-18s %-70s seed %3d: %s\n", b.name, b.what, seed, problem)
	}
	if missed > 0 {
		return fmt.Errorf("%d breaks are not noticed", missed)
	}
	return nil
}

func (o *options) runBreak(ctx context.Context, b breach) (failing uint64, problem string, err error) {
	dir, err := os.MkdirTemp("", "simrun")
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	o.failing = b.failing
	binary, err := o.build(ctx, dir, b.edits)
	if err != nil {
		return 0, "", err
	}
	if dir := os.Getenv("SIMRUN_KEEP"); dir != "" {
		_ = os.Rename(binary, filepath.Join(dir, b.name+".test"))
		binary = filepath.Join(dir, b.name+".test")
	}
	o.each(ctx, binary, func(seed uint64, out string, err error) bool {
		if err == nil {
			return false
		}
		_, problems, _ := strings.Cut(out, "problems:\n")
		first, _, _ := strings.Cut(strings.TrimSpace(problems), "\n")
		failing, problem = seed, strings.TrimSpace(first)
		if problem == "" {
			problem = "it fails"
		}
		return true
	})
	return failing, problem, nil
}
