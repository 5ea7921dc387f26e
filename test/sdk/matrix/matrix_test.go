//go:build real

package matrix_test

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/sdk/matrix"
	"github.com/braidmq/braid/test/world"
)

var (
	only    = flag.String("only", "", "ids of clients, separated by commas; all by default")
	feature = flag.String("feature", "", "ids of features, separated by commas; all by default, and only then the page is written")
	rewrite = flag.Bool("rewrite", false, "write docs/clients.md; rows of clients that are not tried stay")
)

func chosen(list, id string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), id)
}

// A federation is a running braid that the clients are tried against.
type federation struct {
	*world.World
	secure *secured // nil = everybody may come in
}

// TestMatrix tries every client and every feature, on real parts, and writes what it saw.
func TestMatrix(t *testing.T) {
	for id := range strings.SplitSeq(*only, ",") {
		require.True(t, id == "" || slices.ContainsFunc(matrix.Clients, func(c matrix.Client) bool { return c.ID == id }), "no client has the id %q", id)
	}
	// One gateway of each would do; two show that clients find their way.
	open := &federation{World: world.Real(t, world.Options{Gateways: 2})}
	var guarded *federation
	if slices.ContainsFunc(matrix.Features, func(f matrix.Feature) bool { return needsGuard(f.ID) && chosen(*feature, f.ID) }) {
		guarded = secureFederation(t)
	}
	results := matrix.NewResults()
	t.Run("clients", func(t *testing.T) {
		for _, c := range matrix.Clients {
			if chosen(*only, c.ID) {
				t.Run(c.ID, func(t *testing.T) {
					t.Parallel()
					tryClient(t, c, open, guarded, results)
				})
			}
		}
	})
	tryRacks(t, results)
	if *feature == "" {
		tryCrowds(t, open, results)
	}
	if *rewrite {
		require.Empty(t, *feature, "the page is written only if all features were tried")
		require.NoError(t, matrix.WritePage(results))
	}
}

// needsGuard reports whether a feature is tried where nobody comes in without a password.
func needsGuard(feature string) bool { return strings.HasPrefix(feature, "sasl-") }

func tryClient(t *testing.T, c matrix.Client, open, guarded *federation, results *matrix.Results) {
	program := matrix.Programs[c.ID]
	version := program.Start(t, c.ID, "", "version", matrix.Settings{})
	version.Finish()
	require.Len(t, version.Has("version"), 1)
	results.Version(c, version.Has("version")[0])
	for _, f := range matrix.Features { // but racks, which are tried by themselves
		cases, _ := c.CasesOf(f)
		if len(cases) == 0 || !chosen(*feature, f.ID) || f.ID == "rack" {
			continue
		}
		t.Run(f.ID, func(t *testing.T) {
			r := &trial{client: c, program: program, federation: open, feature: f.ID}
			run, ok := trials[f.ID]
			require.True(t, ok, "how is %s tried?", f.ID)
			if c.ID == "streams" {
				run = each(streamsTrials[f.ID])
			}
			if needsGuard(f.ID) {
				r.federation = guarded
			}
			results.Begin(c, f, cases)
			run(t, r, cases, func(name string, try func(t *testing.T)) {
				require.Contains(t, cases, name)
				if t.Run(name, try) {
					results.Passed(c, f)
				}
			})
		})
	}
}

// A trial is one feature of one client.
type trial struct {
	*federation
	client  matrix.Client
	program matrix.Program
	feature string
	topics  int
}

// trials say how features are tried: each case of it by a call of try.
var trials = map[string]func(t *testing.T, r *trial, cases []string, try func(name string, f func(t *testing.T))){
	"produce":      each((*trial).produce),
	"consume":      each((*trial).consume),
	"idempotence":  each((*trial).idempotence),
	"gzip":         each((*trial).codec),
	"snappy":       each((*trial).codec),
	"lz4":          each((*trial).codec),
	"zstd":         each((*trial).codec),
	"classic":      each((*trial).group),
	"kip848":       each((*trial).group),
	"static":       each((*trial).static),
	"regex":        each((*trial).regex),
	"seek":         trySeek,
	"admin":        tryAdmin,
	"transactions": each((*trial).transactions),
	"sasl-plain":   each((*trial).sasl),
	"sasl-256":     each((*trial).sasl),
	"sasl-512":     each((*trial).sasl),
	"sasl-oauth":   each((*trial).sasl),
	"tools":        each((*trial).tools),
}

// each is for features whose cases are tried one by one.
func each(run func(r *trial, t *testing.T, name string)) func(t *testing.T, r *trial, cases []string, try func(name string, f func(t *testing.T))) {
	return func(_ *testing.T, r *trial, cases []string, try func(name string, f func(t *testing.T))) {
		for _, name := range cases {
			try(name, func(t *testing.T) { run(r, t, name) })
		}
	}
}

// newTopic creates a topic over all clusters.
func (r *trial) newTopic(t *testing.T) string {
	t.Helper()
	name := r.name()
	r.create(t, name)
	return name
}

// name is one that nothing has yet.
func (r *trial) name() string {
	r.topics++
	return fmt.Sprintf("%s-%s-%d", r.client.ID, r.feature, r.topics)
}

func (r *trial) create(t *testing.T, topic string) {
	t.Helper()
	r.MustBraid(t, "", "topic", "create", topic, "--partitions", strconv.Itoa(partitions))
}
