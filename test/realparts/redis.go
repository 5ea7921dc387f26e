package realparts

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Redis is a real Redis server that keeps its data over restarts.
type Redis struct {
	Address string

	dir  string
	proc *Process
}

// StartRedis starts a Redis server and waits until it serves.
func StartRedis(t TB) *Redis {
	t.Helper()
	r := &Redis{Address: FreeAddress(t), dir: t.TempDir()}
	r.Restart(t)
	return r
}

// URL is where it is.
func (r *Redis) URL() string { return "redis://" + r.Address + "/0" }

// PID is the server's process id.
func (r *Redis) PID() int { return r.proc.PID() }

// Kill ends the server as its death would.
func (r *Redis) Kill() { r.proc.Kill() }

// Wipe removes the data of a server that was killed.
func (r *Redis) Wipe(t TB) {
	t.Helper()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".log") {
			continue // the server's own
		}
		if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// Restart starts the server, again if it was killed, on its data and its port.
// Every write is on disk before it is acknowledged.
func (r *Redis) Restart(t TB) {
	t.Helper()
	_, port, _ := net.SplitHostPort(r.Address)
	p, err := StartProcess(t, "redis", r.dir, Program{Name: "redis-server", Packages: []string{"redis-server"}}.Path(t),
		"--bind", "127.0.0.1", "--port", port, "--dir", filepath.Clean(r.dir), "--appendonly", "yes", "--appendfsync", "always", "--save", "")
	if err != nil {
		t.Fatalf("%v", err)
	}
	r.proc = p
	if err := p.Ready(r.serves); err != nil {
		t.Fatalf("%v", err)
	}
}

func (r *Redis) serves() error {
	conn, err := net.DialTimeout("tcp", r.Address, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "+PONG") {
		return fmt.Errorf("redis answers %q", strings.TrimSpace(line))
	}
	return nil
}
