package continuity_test

import (
	"testing"
	"time"

	"github.com/braidmq/braid/test/continuity"
	"github.com/braidmq/braid/test/world"
)

func TestEmbedded(t *testing.T) {
	continuity.Run(t, world.Embedded(t, world.Options{Gateways: 3}), 6*time.Second)
}
