//go:build real

package suite_test

import (
	"testing"

	"github.com/braidmq/braid/test/suite"
	"github.com/braidmq/braid/test/world"
)

func TestReal(t *testing.T) { suite.Run(t, world.Real(t, suite.Options())) }

func TestRealMoves(t *testing.T) { suite.RunMoves(t, world.Real(t, suite.MoveOptions())) }

func TestRealZones(t *testing.T) { suite.RunZones(t, world.Real(t, suite.ZoneOptions())) }
