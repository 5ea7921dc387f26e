package continuity_test

import (
	"testing"
	"time"

	"github.com/braidmq/braid/test/continuity"
	"github.com/braidmq/braid/test/world"
)

func TestEmbedded(t *testing.T) {
	continuity.Run(t, world.Embedded(t, continuity.Options()), 6*time.Second, true)
}
