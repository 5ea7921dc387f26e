//go:build real

package suite_test

import (
	"testing"

	"github.com/braidmq/braid/test/suite"
	"github.com/braidmq/braid/test/world"
)

func TestReal(t *testing.T) {
	w := world.Real(t, suite.Options())
	suite.Run(t, w)
	suite.RunFaults(t, w)
}

func TestRealMoves(t *testing.T) { suite.RunMoves(t, world.Real(t, suite.MoveOptions())) }

func TestRealZones(t *testing.T) { suite.RunZones(t, world.Real(t, suite.ZoneOptions())) }
