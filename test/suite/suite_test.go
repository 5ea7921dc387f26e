package suite_test

import (
	"testing"

	"github.com/braidmq/braid/test/suite"
	"github.com/braidmq/braid/test/world"
)

func TestEmbedded(t *testing.T) { suite.Run(t, world.Embedded(t, suite.Options())) }

func TestEmbeddedMoves(t *testing.T) { suite.RunMoves(t, world.Embedded(t, suite.MoveOptions())) }
