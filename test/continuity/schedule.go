package continuity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/braidmq/braid/test/world"
)

// An operation is something that is done to the federation while clients work.
type operation struct {
	kind     string
	argument string
	// planned ones are those that no application may notice by an error.
	planned bool
	run     func(context.Context) (detail string, err error)
}

// plan draws the operations of a round. In the only round of a short run the faults come
// last, so that whatever happens before them is no fault's doing.
func (s *soak) plan(round int, third world.Cluster) []operation {
	if len(s.options.Only) > 0 {
		return s.only(round, third)
	}
	planned := [][]operation{
		{s.expand()},
		{s.move()},
		{s.move()},
		s.drain(s.w.Clusters[s.random.IntN(len(s.w.Clusters))]),
		s.drainGateway(s.random.IntN(len(s.w.Gateways))),
		{s.stopController(s.random.IntN(len(s.w.Controllers)))},
	}
	faults := [][]operation{
		{s.killGateway(s.random.IntN(len(s.w.Gateways)))},
		{s.freezeGateway(s.random.IntN(len(s.w.Gateways)))},
		{s.killController()},
		{s.freezeController()},
		{s.restartRedis(2 * time.Second)},
		{s.killCluster(s.w.Clusters[s.random.IntN(len(s.w.Clusters))])},
		{s.moveWhileGatewayDies(s.random.IntN(len(s.w.Gateways)))},
	}
	if s.options.Duration > 0 {
		faults = append(faults, []operation{s.restartRedis(soakLease + 3*time.Second)}, []operation{s.moveWhileControllerDies()})
	}
	if s.options.Failover {
		faults = append(faults, s.failCluster(s.w.Clusters[s.random.IntN(len(s.w.Clusters))]))
	}
	s.shuffle(planned)
	s.shuffle(faults)
	all := append(planned, faults...)
	if s.options.Duration > 0 {
		s.shuffle(all)
	}
	if round == 0 {
		all = append([][]operation{{s.add(third), s.expand()}}, all...)
	}
	return slices.Concat(all...)
}

func (s *soak) shuffle(units [][]operation) {
	s.random.Shuffle(len(units), func(i, j int) { units[i], units[j] = units[j], units[i] })
}

// only draws the operations whose kinds were asked for, with what undoes them.
func (s *soak) only(round int, third world.Cluster) (plan []operation) {
	if round == 0 {
		plan = []operation{s.add(third)}
	}
	for _, kind := range s.options.Only {
		gateway, cluster := s.random.IntN(len(s.w.Gateways)), s.w.Clusters[s.random.IntN(len(s.w.Clusters))]
		for _, unit := range [][]operation{
			{s.expand()},
			{s.move()},
			s.drain(cluster), s.drainGateway(gateway),
			{s.stopController(s.random.IntN(len(s.w.Controllers)))},
			{s.killGateway(gateway)},
			{s.freezeGateway(gateway)},
			{s.killController()},
			{s.freezeController()},
			{s.restartRedis(2 * time.Second)},
			{s.killCluster(cluster)},
			{s.moveWhileGatewayDies(gateway)},
			{s.moveWhileControllerDies()},
			s.failCluster(cluster),
			{s.watch()},
		} {
			if unit[0].kind == kind {
				plan = append(plan, unit...)
			}
		}
	}
	return plan
}

// add registers a cluster.
func (s *soak) add(c world.Cluster) operation {
	return operation{"add", c.Name, true, func(ctx context.Context) (string, error) {
		out, err := s.braid(ctx, "cluster", "add", c.Name, "--seeds", strings.Join(c.Seeds, ","))
		return lastLine(out), err
	}}
}

// expand spreads the topic over all clusters.
func (s *soak) expand() operation {
	return operation{"expand", "", true, func(ctx context.Context) (string, error) {
		out, err := s.braid(ctx, "topic", "expand", topic)
		return lastLine(out), err
	}}
}

// move moves two heads to a cluster where at least one of them is not.
func (s *soak) move() operation {
	heads, first := s.pick(2), s.random.IntN(3)
	return operation{"move", fmt.Sprint(heads, " to cluster ", first), true, func(ctx context.Context) (string, error) {
		now, err := s.extents(ctx)
		if err != nil {
			return "", err
		}
		for i := range s.w.Clusters {
			target := s.w.Clusters[(first+i)%len(s.w.Clusters)].Name
			var list []string
			for _, p := range heads {
				if int(p) < len(now) && now[p].cluster != target {
					list = append(list, strconv.Itoa(int(p)))
				}
			}
			if len(list) == 0 {
				continue
			}
			_, err := s.braid(ctx, "topic", "move", topic, "--partitions", strings.Join(list, ","), "--to", target)
			return strings.Join(list, ",") + " to " + target, err
		}
		return "", errors.New("the heads are on all clusters")
	}}
}

// drain takes all heads from a cluster, and then lets it have some again.
func (s *soak) drain(c world.Cluster) []operation {
	return []operation{
		{"drain", c.Name, true, func(ctx context.Context) (string, error) {
			out, err := s.braid(ctx, "cluster", "drain", c.Name)
			return lastLine(out), err
		}},
		{"restore", c.Name, true, func(ctx context.Context) (string, error) {
			_, err := s.braid(ctx, "cluster", "restore", c.Name)
			return c.Name, err
		}},
		s.expand(),
	}
}

// drainGateway drains a gateway, and then starts it again: a new one.
func (s *soak) drainGateway(i int) []operation {
	g := s.w.Gateways[i]
	return []operation{
		{"gateway drain", g.ID, true, func(ctx context.Context) (string, error) {
			s.avoid(i)
			had := s.connections(ctx)[g.ID]
			begin := time.Now()
			if _, err := s.braid(ctx, "gateway", "drain", g.ID); err != nil {
				return "", err
			}
			for g.Running() {
				if time.Since(begin) > commandTimeout {
					return "", fmt.Errorf("%s has drained, and its process has not ended", g.ID)
				}
				wait(ctx, 10*time.Millisecond)
			}
			return fmt.Sprintf("%s had %d connections, empty and gone after %s", g.ID, had, time.Since(begin).Round(time.Millisecond)), nil
		}},
		{"gateway start", g.ID, true, func(ctx context.Context) (string, error) {
			if g.Running() {
				return "", fmt.Errorf("%s runs still", g.ID)
			}
			if err := g.Start(); err != nil {
				return "", err
			}
			wait(ctx, 5*time.Second)
			return fmt.Sprintf("%s; connections after 5 s: %v", g.ID, s.connections(ctx)), nil
		}},
	}
}

// stopController stops a controller in order, and starts it again.
func (s *soak) stopController(i int) operation {
	c := s.w.Controllers[i]
	return operation{"controller stop", c.ID, true, func(context.Context) (string, error) {
		return c.ID, errors.Join(c.Stop(), c.Start())
	}}
}

func (s *soak) killGateway(i int) operation {
	g, pause := s.w.Gateways[i], 3*time.Second
	return operation{"gateway kill", g.ID, false, func(ctx context.Context) (string, error) {
		s.avoid(i)
		g.Kill()
		wait(ctx, pause)
		return fmt.Sprintf("%s for %s", g.ID, pause), g.Start()
	}}
}

// freezeGateway stops a gateway for longer than its lease, while it is taken for alive.
func (s *soak) freezeGateway(i int) operation {
	g, pause := s.w.Gateways[i], soakLease+2*time.Second
	return operation{"gateway freeze", g.ID, false, func(ctx context.Context) (string, error) {
		s.avoid(i)
		if err := g.Freeze(); err != nil {
			return "", err
		}
		wait(ctx, pause)
		return fmt.Sprintf("%s for %s", g.ID, pause), g.Thaw()
	}}
}

func (s *soak) killController() operation {
	return operation{"controller kill", "leader", false, func(ctx context.Context) (string, error) {
		c, err := s.leader(ctx)
		if err != nil {
			return "", err
		}
		c.Kill()
		wait(ctx, 3*time.Second)
		return c.ID, c.Start()
	}}
}

// freezeController stops the leader for longer than its lead lasts, and the gateways' leases.
func (s *soak) freezeController() operation {
	pause := soakLease + 2*time.Second
	return operation{"controller freeze", "leader", false, func(ctx context.Context) (string, error) {
		c, err := s.leader(ctx)
		if err != nil {
			return "", err
		}
		if err := c.Freeze(); err != nil {
			return "", err
		}
		wait(ctx, pause)
		return fmt.Sprintf("%s for %s", c.ID, pause), c.Thaw()
	}}
}

func (s *soak) restartRedis(pause time.Duration) operation {
	return operation{"redis restart", pause.String(), false, func(ctx context.Context) (string, error) {
		s.w.Redis.Down()
		wait(ctx, pause)
		s.w.Redis.Up()
		return "away for " + pause.String(), nil
	}}
}

func (s *soak) killCluster(c world.Cluster) operation {
	return operation{"cluster kill", c.Name, false, func(ctx context.Context) (string, error) {
		begin := time.Now()
		c.Kill()
		wait(ctx, 2*time.Second)
		c.Restart()
		return fmt.Sprintf("%s was away for %s", c.Name, time.Since(begin).Round(100*time.Millisecond)), nil
	}}
}

// moveWhileGatewayDies kills a gateway and asks for a move at once, which has to wait for its lease.
func (s *soak) moveWhileGatewayDies(i int) operation {
	g, move := s.w.Gateways[i], s.move()
	return operation{"move while a gateway dies", g.ID + " " + move.argument, false, func(ctx context.Context) (string, error) {
		s.avoid(i)
		g.Kill()
		detail, err := move.run(ctx)
		return g.ID + ", " + detail, errors.Join(err, g.Start())
	}}
}

// moveWhileControllerDies kills the leader some moments after a move was asked for.
func (s *soak) moveWhileControllerDies() operation {
	move, moment := s.move(), time.Duration(s.random.IntN(150))*time.Millisecond
	return operation{"move while the controller dies", move.argument + " after " + moment.String(), false, func(ctx context.Context) (string, error) {
		c, err := s.leader(ctx)
		if err != nil {
			return "", err
		}
		moved := make(chan error, 1)
		var detail string
		go func() {
			var err error
			detail, err = move.run(ctx)
			moved <- err
		}()
		wait(ctx, moment)
		c.Kill()
		err = <-moved
		return fmt.Sprintf("%s after %s, %s", c.ID, moment, detail), errors.Join(err, c.Start())
	}}
}

// failCluster kills a cluster, fails it over, and brings it back. It is no part of a
// plan unless Failover is set, as other promises hold then.
func (s *soak) failCluster(c world.Cluster) []operation {
	return []operation{
		{"fail", c.Name, false, func(ctx context.Context) (string, error) {
			c.Kill()
			out, err := s.braid(ctx, "cluster", "fail", c.Name)
			return lastLine(out), err
		}},
		{"return", c.Name, false, func(ctx context.Context) (string, error) {
			c.Restart()
			out, err := s.braid(ctx, "cluster", "restore", c.Name)
			return lastLine(out), err
		}},
	}
}

// watch does nothing for a minute, and tells where clients are connected. It is in no
// plan, but can be asked for.
func (s *soak) watch() operation {
	return operation{"watch", "", true, func(ctx context.Context) (string, error) {
		wait(ctx, time.Minute)
		return fmt.Sprint("connections: ", s.connections(ctx)), nil
	}}
}

// leader returns the leading controller.
func (s *soak) leader(ctx context.Context) (*world.Node, error) {
	var status struct {
		Controllers []struct {
			ID     string `json:"id"`
			Leader bool   `json:"leader"`
		} `json:"controllers"`
	}
	if err := s.json(ctx, &status, "status"); err != nil {
		return nil, err
	}
	for _, c := range status.Controllers {
		for _, n := range s.w.Controllers {
			if c.Leader && n.ID == c.ID {
				return n, nil
			}
		}
	}
	return nil, fmt.Errorf("nobody leads: %+v", status.Controllers)
}

// connections returns how many each gateway has.
func (s *soak) connections(ctx context.Context) map[string]int {
	var list struct {
		Gateways []struct {
			Name        string `json:"name"`
			Connections int    `json:"connections"`
		} `json:"gateways"`
	}
	all := make(map[string]int)
	if err := s.json(ctx, &list, "gateway", "list"); err != nil {
		return all
	}
	for _, g := range list.Gateways {
		all[strings.TrimPrefix(g.Name, "gateways/")] = g.Connections
	}
	return all
}

// A head is where a partition's records go, and how many extents it has.
type head struct {
	cluster string
	count   int
}

func (s *soak) extents(ctx context.Context) ([]head, error) {
	var d struct {
		Partitions []struct {
			Extents []struct {
				PhysicalCluster string `json:"physicalCluster"`
			} `json:"extents"`
		} `json:"partitions"`
	}
	if err := s.json(ctx, &d, "topic", "describe", topic); err != nil {
		return nil, err
	}
	heads := make([]head, 0, len(d.Partitions))
	for _, p := range d.Partitions {
		if len(p.Extents) == 0 {
			return nil, fmt.Errorf("a partition of %s has no extent", topic)
		}
		heads = append(heads, head{p.Extents[len(p.Extents)-1].PhysicalCluster, len(p.Extents)})
	}
	return heads, nil
}

// json runs a command and reads what it prints.
func (s *soak) json(ctx context.Context, into any, args ...string) error {
	out, err := s.braid(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("braid %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
