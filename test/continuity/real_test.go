//go:build real

package continuity_test

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/braidmq/braid/test/continuity"
	"github.com/braidmq/braid/test/world"
)

var (
	duration = flag.Duration("duration", 20*time.Second, "how long producers write")
	moves    = flag.Bool("moves", true, "move heads, drain and restore clusters meanwhile")
)

var (
	soak     = flag.Duration("soak", 0, "how long operations go on in TestClients; 0 = one round of each")
	seed     = flag.Uint64("seed", 1, "of the operations of TestClients")
	only     = flag.String("only", "", "kinds of operations, separated by commas, that TestClients runs instead of all")
	failover = flag.Bool("failover", false, "fail clusters over in TestClients, too")
	report   = flag.String("report", "", "where TestClients writes its report: a path without its ending")
)

// TestClients is about unmodified clients in four languages.
func TestClients(t *testing.T) {
	o := continuity.Soak{Seed: *seed, Duration: *soak, Failover: *failover, Report: *report}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	continuity.RunClients(t, world.Real(t, continuity.SoakOptions()), o)
}

func TestReal(t *testing.T) {
	continuity.Run(t, world.Real(t, continuity.Options()), *duration, *moves)
}
