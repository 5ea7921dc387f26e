package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/braidmq/braid/internal/embedded"
	"github.com/braidmq/braid/test/realparts"
)

// childEnv makes this program be a part of the benchmark that runs as a process of
// its own, so that its CPU and memory can be told apart.
const childEnv = "BRAID_BENCH_CHILD"

// child runs such a part, if this process is one.
func child() (ran bool, err error) {
	switch os.Getenv(childEnv) {
	case "":
		return false, nil
	case "copy":
		return true, copyLoop(os.Getenv("BRAID_BENCH_LISTEN"), os.Getenv("BRAID_BENCH_TARGET"))
	case "relay":
		return true, relayConnections(os.Getenv("BRAID_BENCH_LISTEN"), os.Getenv("BRAID_BENCH_TARGET"))
	case "abuse":
		return true, misbehave(os.Getenv("BRAID_BENCH_ABUSE"))
	case "clusters":
		return true, hostClusters(os.Getenv("BRAID_BENCH_CLUSTERS"), os.Getenv("BRAID_BENCH_BROKERS"), os.Getenv("BRAID_BENCH_SEEDS"))
	}
	return true, fmt.Errorf("%s=%s is not known", childEnv, os.Getenv(childEnv))
}

// startChild starts a part; it dies with this process.
func startChild(tb realparts.TB, dir, role string, env ...string) *realparts.Process {
	executable, err := os.Executable()
	check(err)
	command := append([]string{"env", childEnv + "=" + role}, env...)
	p, err := realparts.StartProcess(tb, role, dir, append(command, executable)...)
	check(err)
	return p
}

// copyLoop takes connections one after the other and copies what comes to a
// connection of its own to target, through one buffer: the least that a gateway
// that sees the bytes can do.
func copyLoop(listen, target string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			return err
		}
		for {
			n, err := in.Read(buf)
			if n > 0 {
				if _, err := out.Write(buf[:n]); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if err := errors.Join(out.Close(), in.Close()); err != nil {
			return err
		}
	}
}

// relayConnections copies the bytes of each connection to one of its own to target, and
// back.
func relayConnections(listen, target string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			return err
		}
		for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				// Hidden: that the kernel could copy, which a gateway cannot ask for.
				_, _ = io.Copy(struct{ io.Writer }{c[0]}, struct{ io.Reader }{c[1]})
				_ = c[0].Close()
			}()
		}
	}
}

// startRelay starts such a process before the broker, and returns its address.
func (w *world) startRelay() string {
	address := realparts.FreeAddress(w.scope)
	p := startChild(w.scope, w.dir, "relay", "BRAID_BENCH_LISTEN="+address, "BRAID_BENCH_TARGET="+w.kafka.Seed)
	check(p.Ready(func() error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}))
	return address
}

// hostClusters runs embedded clusters until it is killed, and writes their seeds to
// a file when they serve: a list for each cluster, as JSON.
func hostClusters(count, brokers, seeds string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	perCluster, err := strconv.Atoi(brokers)
	if err != nil {
		return err
	}
	all := make([][]string, n)
	for i := range all {
		k, err := embedded.StartKafka(embedded.KafkaOptions{Name: clusterName(i), Brokers: perCluster})
		if err != nil {
			return err
		}
		all[i] = k.Seeds()
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := os.WriteFile(seeds+".part", b, 0o600); err != nil {
		return err
	}
	if err := os.Rename(seeds+".part", seeds); err != nil {
		return err
	}
	select {} // until it is killed
}

func clusterName(i int) string { return fmt.Sprintf("c%02d", i) }

// embeddedClusters starts a process with embedded clusters and returns their seeds.
func (w *world) embeddedClusters(count, brokers int) (*realparts.Process, [][]string) {
	file := filepath.Join(w.dir, "seeds.json")
	p := startChild(w.scope, w.dir, "clusters",
		fmt.Sprintf("BRAID_BENCH_CLUSTERS=%d", count), fmt.Sprintf("BRAID_BENCH_BROKERS=%d", brokers), "BRAID_BENCH_SEEDS="+file)
	var all [][]string
	check(p.Ready(func() error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &all)
	}))
	return p, all
}

// raiseFiles lets this process, and with it its children, have as many files and
// sockets as the machine gives; without the right to raise the limit it stays.
func raiseFiles() {
	const wanted = 65536
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur >= wanted {
		return
	}
	higher := syscall.Rlimit{Cur: wanted, Max: max(wanted, limit.Max)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &higher) != nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}
