//go:build synctests

//go:debug randseednop=0

package sim_test

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	mathrand "math/rand"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/internal/process"
	"github.com/braidmq/braid/test/sim"
)

var (
	seedsFlag    = flag.String("seeds", "1-3", "the seeds to run: one, or FROM-TO")
	durationFlag = flag.Duration("duration", time.Minute, "how long clients write and faults come, in virtual time")
	quietFlag    = flag.Bool("quiet", false, "no faults")
	failingFlag  = flag.Bool("failing", false, "fail clusters over and restore them, whatever the seed")
	stillFlag    = flag.Bool("still", false, "no operations")
	logFlag      = flag.String("log", "", "write the processes' log to this file")
	traceFlag    = flag.Bool("trace", false, "print the trace of good seeds too")
	frozenFlag   = flag.Duration("frozen", 4*time.Minute, "wall time after which a seed counts as frozen")
)

func seeds(t *testing.T) (from, to uint64) {
	t.Helper()
	first, last, isRange := strings.Cut(*seedsFlag, "-")
	from, err := strconv.ParseUint(first, 10, 64)
	require.NoError(t, err, "-seeds")
	if !isRange {
		return from, from
	}
	to, err = strconv.ParseUint(last, 10, 64)
	require.NoError(t, err, "-seeds")
	return from, to
}

// simulate runs one seed in a bubble of its own.
func simulate(t *testing.T, o sim.Options) (result *sim.Result) {
	t.Helper()
	telemetry, err := process.NewTelemetry(t.Context(), "sim")
	require.NoError(t, err)
	// In memory: a write to a file lets others run meanwhile, or not.
	var said bytes.Buffer
	level := slog.LevelInfo
	if *logFlag != "" {
		level = slog.LevelDebug
	}
	o.Logger = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: level}))
	// One processor, and what can be seeded is: a seed then goes the same way again.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	mathrand.Seed(int64(o.Seed)) //nolint:staticcheck // seeds what kfake uses
	cryptotest.SetGlobalRandom(t, o.Seed)
	watchdog := time.AfterFunc(*frozenFlag, func() { frozen(o.Seed) })
	defer watchdog.Stop()
	begin := time.Now()
	synctest.Test(t, func(t *testing.T) { result = sim.Run(t.Context(), o, telemetry) })
	wall := time.Since(begin)
	require.NoError(t, telemetry.Shutdown(t.Context()))
	t.Logf("%s; %.1f s wall, %.0f virtual s per s", result, wall.Seconds(), result.Virtual.Seconds()/wall.Seconds())
	path := *logFlag
	if path == "" && len(result.Problems) > 0 {
		path = filepath.Join(os.TempDir(), fmt.Sprintf("braid-sim-%d.log", o.Seed))
	}
	if path != "" {
		if os.WriteFile(path, said.Bytes(), 0o600) == nil {
			t.Logf("the log of the processes is in %s", path)
		}
	}
	return result
}

// frozen says which goroutines stop the clock of a bubble: those that wait for
// something else than the bubble itself, such as a mutex. If there is none, the world
// does not come to its end: all stacks are in a file.
func frozen(seed uint64) {
	const enough = 64 << 20
	stacks := make([]byte, enough)
	stacks = stacks[:runtime.Stack(stacks, true)]
	inBubble := regexp.MustCompile(`^goroutine \d+ \[[^\]]*synctest bubble`)
	var culprits []string
	for g := range strings.SplitSeq(string(stacks), "\n\n") {
		if head, _, _ := strings.Cut(g, "\n"); inBubble.MatchString(head) && !strings.Contains(head, "durable") {
			culprits = append(culprits, g)
		}
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("braid-sim-%d.stacks", seed))
	_ = os.WriteFile(path, stacks, 0o600)
	_, _ = fmt.Fprintf(os.Stderr, "%s\nseed %d is frozen: %d goroutines of the bubble wait for something that is not durable; all are in %s:\n\n%s\n",
		strings.Join(sim.Trace(), "\n"), seed, len(culprits), path, strings.Join(culprits, "\n\n"))
	os.Exit(1)
}

func TestSeeds(t *testing.T) {
	from, to := seeds(t)
	for seed := from; seed <= to; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := simulate(t, sim.Options{Seed: seed, Duration: *durationFlag, Quiet: *quietFlag, Still: *stillFlag, Failing: *failingFlag})
			if len(r.Problems) > 0 {
				t.Errorf("seed %d fails; run it again with: go test -tags synctests ./test/sim -run TestSeeds -seeds %d -duration %s\n%s\nproblems:\n%s",
					seed, seed, *durationFlag, strings.Join(r.Trace, "\n"), strings.Join(r.Problems, "\n"))
			} else if *traceFlag {
				t.Log(strings.Join(r.Trace, "\n"))
			}
		})
	}
}
