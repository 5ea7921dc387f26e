//go:build real

package continuity_test

import (
	"flag"
	"testing"
	"time"

	"github.com/braidmq/braid/test/continuity"
	"github.com/braidmq/braid/test/world"
)

var (
	duration = flag.Duration("duration", 20*time.Second, "how long producers write")
	moves    = flag.Bool("moves", true, "move heads, drain and restore clusters meanwhile")
)

func TestReal(t *testing.T) {
	continuity.Run(t, world.Real(t, continuity.Options()), *duration, *moves)
}
