package continuity

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/braidmq/braid/test/world"
)

// commandTimeout bounds one command; a move may have to wait for a lease.
const commandTimeout = time.Minute

// moveHeads adds a third cluster that the topic expands to, then moves partitions,
// drains a cluster and lets it take partitions again, with pauses, one cluster after
// the other, until ctx ends; once has been through all of it, it closes moved.
func (r *run) moveHeads(ctx context.Context, third world.Cluster, pause time.Duration, moved chan<- struct{}) {
	commands := [][]string{
		{"cluster", "add", third.Name, "--seeds", strings.Join(third.Seeds, ",")},
		{"topic", "expand", topic},
	}
	for round := 0; ; round++ {
		drained := r.w.Clusters[(round+1)%len(r.w.Clusters)].Name
		target := r.w.Clusters[round%len(r.w.Clusters)].Name
		commands = append(commands, [][]string{
			{"topic", "move", topic, "--partitions", fmt.Sprintf("%d,%d", round%partitions, (round+3)%partitions), "--to", target},
			{"cluster", "drain", drained},
			{"cluster", "restore", drained},
			{"topic", "expand", topic},
		}...)
		for _, c := range commands {
			wait(ctx, pause)
			if ctx.Err() != nil {
				return
			}
			if err := r.command(ctx, c); err != nil {
				r.fail(err)
				if round == 0 {
					close(moved)
				}
				return
			}
		}
		commands = nil
		if round == 0 {
			close(moved)
		}
	}
}

// command runs a command by a gateway that is not killed, to its end.
func (r *run) command(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	_, stderr, err := r.w.Braid(ctx, "", append(args, "--api", r.urls[1])...)
	if err != nil {
		return fmt.Errorf("braid %s: %w: %s", strings.Join(args, " "), err, stderr)
	}
	return nil
}

// movedHeads counts how often a head has moved.
func (r *run) movedHeads() (n int) {
	r.t.Helper()
	var d struct {
		Partitions []struct{ Extents []struct{} }
	}
	out := r.w.MustBraid(r.t, "", "topic", "describe", topic, "-o", "json")
	require.NoError(r.t, json.Unmarshal([]byte(out), &d), out)
	for _, p := range d.Partitions {
		n += len(p.Extents) - 1
	}
	return n
}
