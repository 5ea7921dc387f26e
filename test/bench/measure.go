package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// The processes that are watched.
const (
	gateway    = "gateway"
	broker     = "broker"
	controller = "controller"
	redisName  = "redis"
	client     = "client" // this one
)

// A used is what one load took.
type used struct {
	bytes, records int64
	took           time.Duration
	cpu            map[string]time.Duration
	// What the gateway allocated, and read from its sockets.
	allocBytes, allocs float64
	gatewayRead        int64
}

func (u used) mb() float64             { return float64(u.bytes) / 1e6 }
func (u used) mbPerS() float64         { return u.mb() / u.took.Seconds() }
func (u used) recordsPerS() float64    { return float64(u.records) / u.took.Seconds() }
func (u used) allocPerByte() float64   { return u.allocBytes / float64(u.bytes) }
func (u used) allocPerRecord() float64 { return u.allocBytes / float64(u.records) }

// perMB is the CPU of a process for each MB, in ms.
func perMB(process string) func(used) float64 {
	return func(u used) float64 { return float64(u.cpu[process].Microseconds()) / 1000 / u.mb() }
}

// measure runs f, which moves some bytes in some records, and takes what the
// processes of the world used meanwhile.
func (w *world) measure(bytes, records int64, f func()) used {
	u := used{bytes: bytes, records: records, cpu: make(map[string]time.Duration)}
	before := w.metrics(gateway)
	pids := w.pids()
	read := readBytes(pids[gateway][0])
	for name, all := range pids {
		u.cpu[name] = -cpuOfAll(all)
	}
	start := time.Now()
	f()
	u.took = time.Since(start)
	for name, all := range pids {
		u.cpu[name] += cpuOfAll(all)
	}
	u.gatewayRead = readBytes(pids[gateway][0]) - read
	after := w.metrics(gateway)
	u.allocBytes = max(0, after[metricAllocBytes]-before[metricAllocBytes]-w.askBytes)
	u.allocs = max(0, after[metricAllocs]-before[metricAllocs]-w.askAllocs)
	return u
}

// cpuOfAll returns the CPU time that processes have taken together.
func cpuOfAll(pids []int) (all time.Duration) {
	for _, pid := range pids {
		all += cpu(pid)
	}
	return all
}

// cpu returns the CPU time that a process has taken.
func cpu(pid int) time.Duration {
	_, rest, _ := strings.Cut(read(fmt.Sprintf("/proc/%d/stat", pid)), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

// readBytes is what a process has read by system calls, files and sockets alike.
func readBytes(pid int) int64 { return procLine(fmt.Sprintf("/proc/%d/io", pid), "rchar:") }

// rss is the resident memory of a process in bytes.
func rss(pid int) int64 { return procLine(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:") << 10 }

func procLine(path, name string) int64 {
	for line := range strings.Lines(read(path)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

// Metrics of a braid process.
const (
	metricAllocBytes = "go_memstats_alloc_bytes_total"
	metricAllocs     = "go_memstats_mallocs_total"
	metricHeap       = "go_memstats_heap_alloc_bytes"
	metricStack      = "go_memstats_stack_inuse_bytes"
	metricTail       = "braid_router_read_tail_bytes_total"
	metricDirect     = "braid_router_read_direct_bytes_total"
	metricGroupTrips = "braid_groups_round_trips_total"
)

// metrics asks a process for its metrics, added up over their attributes.
func (w *world) metrics(process string) map[string]float64 {
	body := w.ops(process, "/metrics")
	all := make(map[string]float64)
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if i := strings.LastIndexByte(value, ' '); i >= 0 {
			value = value[i+1:] // a label had spaces
		}
		name, _, _ = strings.Cut(name, "{")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] += v
		}
	}
	return all
}

// live is what a process holds in memory right after garbage collections: heap and
// stacks. The first one leaves what pools hold.
func (w *world) live(process string) float64 {
	for range 3 {
		w.ops(process, "/debug/pprof/heap?gc=1")
	}
	m := w.metrics(process)
	return m[metricHeap] + m[metricStack]
}

// ops asks a process at its ops address.
func (w *world) ops(process, path string) []byte {
	resp, err := http.Get("http://" + w.opsAddress[process] + path)
	check(err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(bufio.NewReader(resp.Body))
	check(err)
	if resp.StatusCode != http.StatusOK {
		check(fmt.Errorf("%s of the %s answers %s: %s", path, process, resp.Status, body))
	}
	return body
}

// self is the process id of the load.
func self() int { return os.Getpid() }
