package suite_test

import (
	"testing"

	"github.com/braidmq/braid/test/suite"
	"github.com/braidmq/braid/test/world"
)

// The suites wait more than they work, each in a world of its own.

func TestEmbedded(t *testing.T) {
	t.Parallel()
	suite.Run(t, world.Embedded(t, suite.Options()))
}

func TestEmbeddedFaults(t *testing.T) {
	t.Parallel()
	suite.RunFaults(t, world.Embedded(t, suite.Options()))
}

func TestEmbeddedMoves(t *testing.T) {
	t.Parallel()
	suite.RunMoves(t, world.Embedded(t, suite.MoveOptions()))
}

func TestEmbeddedZones(t *testing.T) {
	t.Parallel()
	suite.RunZones(t, world.Embedded(t, suite.ZoneOptions()))
}
