package realparts

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Ports are given out below the range that the kernel gives out by itself.
const (
	firstPort = 12000
	portCount = 18000
)

// ports are those that this process was given. A lock on its byte of a file keeps each
// from the other processes of this user, until this one ends: to find a port free is not
// enough, as it is listened on only later.
var ports struct {
	mu    sync.Mutex // guards the following
	file  *os.File   // open for ever: all locks would go with it
	given map[int]bool
}

// FreePort returns a TCP port on 127.0.0.1 that nobody listens on, and that no test, here
// or in another process, was or will be given.
func FreePort(t TB) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.file == nil {
		name := filepath.Join(os.TempDir(), fmt.Sprintf("braid-test-ports-%d", os.Getuid()))
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatalf("ports: %v", err)
		}
		ports.file, ports.given = f, make(map[int]bool)
	}
	for range 1000 {
		port := firstPort + rand.IntN(portCount)
		if ports.given[port] {
			continue
		}
		lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: int64(port), Len: 1}
		if syscall.FcntlFlock(ports.file.Fd(), syscall.F_SETLK, &lock) != nil {
			continue
		}
		ports.given[port] = true // also if somebody else has it: it stays theirs
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("no free port on 127.0.0.1")
	return 0
}

// FreeAddress is 127.0.0.1 with a FreePort.
func FreeAddress(t TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}
