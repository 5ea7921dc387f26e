// Package sdk runs unmodified client libraries against braid, each in its own
// language and with its default configuration. A client program prints what
// happens to it, one event in a line, fields separated by tabs: "record", "sent",
// "assigned" and so on; "done" is the last line of a good run.
package sdk

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

// clientTimeout bounds what a client program does after it was asked to end, and
// every wait for one of its events.
const clientTimeout = 90 * time.Second

// An Event is a line that a client program printed.
type Event struct {
	Kind   string
	Fields []string
}

// A Record is an event of kind "record" or "sent". Partition and Offset are -1
// where a client does not tell.
type Record struct {
	Partition  int32
	Offset     int64
	Key, Value string
}

// A Client is a client program that runs.
type Client struct {
	Name string

	t      realparts.TB
	handle func(Event) // instead of keeping events; nil = they are kept
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	done   chan struct{}
	err    error // set before done is closed
	mu     sync.Mutex
	events []Event
	stderr bytes.Buffer
	change chan struct{} // closed and replaced at each event
}

// Start starts a client program; it is killed at the end of the test.
func Start(t realparts.TB, name string, env []string, command ...string) *Client {
	t.Helper()
	return start(t, name, nil, env, command)
}

// StartHandled is Start for a program that runs for long: handle gets its events,
// one after the other, and none is kept.
func StartHandled(t realparts.TB, name string, handle func(Event), env []string, command ...string) *Client {
	t.Helper()
	return start(t, name, handle, env, command)
}

func start(t realparts.TB, name string, handle func(Event), env, command []string) *Client {
	t.Helper()
	c := &Client{Name: name, t: t, handle: handle, done: make(chan struct{}), change: make(chan struct{})}
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.SysProcAttr = realparts.DieWithParent()
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	c.cmd.Stderr = lockedWriter{&c.mu, &c.stderr}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // see realparts.StartProcess
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.scan(stdout)
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = stdout.Close() // a child of the program may hold its other end
		<-c.done
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, c.output())
		}
	})
	return c
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(b)
}

func (c *Client) scan(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if c.handle != nil {
			c.handle(Event{fields[0], fields[1:]})
			continue
		}
		c.mu.Lock()
		c.events = append(c.events, Event{fields[0], fields[1:]})
		close(c.change)
		c.change = make(chan struct{})
		c.mu.Unlock()
	}
}

// Signal sends a signal to the program.
func (c *Client) Signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("%s: %v", c.Name, err)
	}
}

// Events returns what the program printed so far.
func (c *Client) Events() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.events)
}

// Records returns the events of a kind ("record", "sent") as records.
func (c *Client) Records(kind string) []Record {
	var all []Record
	for _, e := range c.Events() {
		if e.Kind != kind {
			continue
		}
		if len(e.Fields) != 4 {
			c.t.Fatalf("%s: bad line %q %q", c.Name, e.Kind, e.Fields)
		}
		partition, err := strconv.ParseInt(e.Fields[0], 10, 32)
		if err != nil {
			c.t.Fatalf("%s: %v", c.Name, err)
		}
		offset, err := strconv.ParseInt(e.Fields[1], 10, 64)
		if err != nil {
			c.t.Fatalf("%s: %v", c.Name, err)
		}
		all = append(all, Record{int32(partition), offset, e.Fields[2], e.Fields[3]})
	}
	return all
}

// Assigned returns the partitions that the program was assigned last.
func (c *Client) Assigned() []string {
	for _, e := range slices.Backward(c.Events()) {
		if e.Kind == "assigned" {
			if len(e.Fields) == 0 || e.Fields[0] == "" {
				return nil
			}
			return strings.Split(e.Fields[0], ",")
		}
	}
	return nil
}

// Has returns the fields of the events of a kind, joined by spaces.
func (c *Client) Has(kind string) []string {
	var all []string
	for _, e := range c.Events() {
		if e.Kind == kind {
			all = append(all, strings.Join(e.Fields, " "))
		}
	}
	return all
}

// Until waits until condition holds, which is asked again at every event of any
// of the clients.
func Until(t realparts.TB, what string, condition func() bool, clients ...*Client) {
	t.Helper()
	deadline := time.Now().Add(clientTimeout)
	for !condition() {
		for _, c := range clients {
			select {
			case <-c.done:
				if c.err != nil {
					t.Fatalf("%s ended while waiting for %s: %v\n%s", c.Name, what, c.err, c.output())
				}
			default:
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, clientTimeout)
		}
		wait(clients)
	}
}

// wait returns at the next event of any of the clients, or after a moment.
func wait(clients []*Client) {
	moment := time.NewTimer(100 * time.Millisecond)
	defer moment.Stop()
	if len(clients) == 1 {
		clients[0].mu.Lock()
		change := clients[0].change
		clients[0].mu.Unlock()
		select {
		case <-change:
		case <-moment.C:
		}
		return
	}
	<-moment.C
}

// Finish waits for the end of a program that ends by itself, which must be a good one.
func (c *Client) Finish() {
	c.t.Helper()
	c.FinishWithin(clientTimeout)
}

// FinishWithin is Finish with a bound of its own.
func (c *Client) FinishWithin(bound time.Duration) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	select {
	case <-c.done:
	case <-ctx.Done():
		c.t.Fatalf("%s has not ended after %s; it printed:\n%s", c.Name, bound, c.output())
	}
	if c.err != nil {
		c.t.Fatalf("%s: %v; it printed:\n%s", c.Name, c.err, c.output())
	}
}

// Fails waits for the end of a program that ends by itself, which must not be a good one.
func (c *Client) Fails(bound time.Duration) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(bound):
		c.t.Fatalf("%s has not ended after %s; it printed:\n%s", c.Name, bound, c.output())
	}
	if c.err == nil {
		c.t.Fatalf("%s ended well; it printed:\n%s", c.Name, c.output())
	}
}

// Say writes a line to the program's input.
func (c *Client) Say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		c.t.Fatalf("%s: %v", c.Name, err)
	}
}

// End closes the program's input, which asks it to end; Finish waits for that.
func (c *Client) End() { _ = c.stdin.Close() }

// Stop closes the program's input, which asks it to end, and waits for that.
func (c *Client) Stop() {
	c.t.Helper()
	c.End()
	c.Finish()
}

func (c *Client) output() string {
	events := c.Events()
	var b strings.Builder
	for i, e := range events {
		if i > 20 && i < len(events)-20 {
			continue
		}
		_, _ = fmt.Fprintln(&b, e.Kind, strings.Join(e.Fields, " "))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stderr := c.stderr.String()
	if len(stderr) > 8192 {
		stderr = stderr[:4096] + "\n...\n" + stderr[len(stderr)-4096:]
	}
	return b.String() + stderr
}

// dir is where the programs are.
func dir(parts ...string) string {
	return filepath.Join(append([]string{realparts.Root(), "test", "sdk"}, parts...)...)
}

func read(t realparts.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(b)
}

func write(t realparts.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatalf("%v", err)
	}
}
