// Package realparts installs and runs what braid's tests need of the real world:
// Apache Kafka clusters, Redis, and command line clients. Whatever is missing is
// installed, and what cannot be installed fails the test: nothing is skipped.
//
// Downloads are kept in $BRAID_TEST_CACHE, by default .cache at the root of the
// repository. Every process started here dies with the test.
package realparts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Limits of what is done here.
const (
	installTimeout  = 10 * time.Minute // for one step
	installAttempts = 3
	startTimeout    = 90 * time.Second // of a process, until it is ready
	readyPoll       = 100 * time.Millisecond
)

// A TB is what this package needs of a test.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Cleanup(f func())
	Failed() bool
	TempDir() string
}

// Root is the root of the repository.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// CacheDir is where downloads are kept.
func CacheDir() string {
	if dir := os.Getenv("BRAID_TEST_CACHE"); dir != "" {
		return dir
	}
	return filepath.Join(Root(), ".cache")
}

// Cached returns the directory <cache>/<name>-<hash of content>, which fill makes
// if it is not there yet. content is whatever decides what is in the directory:
// version pins, lock files. Test processes that want the same directory wait for
// each other, and a fill that fails leaves nothing.
func Cached(t TB, name, content string, fill func(dir string) error) string {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	dir := filepath.Join(CacheDir(), name+"-"+hex.EncodeToString(sum[:6]))
	err := locked(name, func() error {
		if _, err := os.Stat(filepath.Join(dir, ".complete")); err == nil {
			return nil
		}
		begin := time.Now()
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := fill(dir); err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		t.Logf("installed %s in %.1f s", name, time.Since(begin).Seconds())
		return os.WriteFile(filepath.Join(dir, ".complete"), nil, 0o644)
	})
	if err != nil {
		t.Fatalf("install %s: %v", name, err)
	}
	return dir
}

// locked runs f while no other test process runs one of the same name.
func locked(name string, f func() error) error {
	if err := os.MkdirAll(CacheDir(), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(CacheDir(), name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // the lock goes with it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return f()
}

// Install runs an installing command in dir, a few times if it fails: networks do.
func Install(dir, name string, args ...string) error {
	var err error
	for range installAttempts {
		if err = Output(dir, name, args...); err == nil {
			return nil
		}
	}
	return err
}

// Output runs a command in dir; its error has the end of what it printed.
func Output(dir, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), installTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, tail(out, 4096))
	}
	return nil
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return b
}
