package memory

import (
	"bytes"
	"io/fs"
	"strconv"
)

// Available returns what this process may take at most by default: three quarters of
// the limit of its cgroup, or, without one, half of the machine's memory; 0 if neither
// is known. root is the root of the file system.
func Available(root fs.FS) int64 {
	total := meminfo(root)
	if limit := cgroupLimit(root); limit > 0 && (total == 0 || limit < total) {
		return limit / 4 * 3
	}
	return total / 2
}

// cgroupLimit reads the limit of the own cgroup as a container sees it: of version 2,
// then of version 1.
func cgroupLimit(root fs.FS) int64 {
	for _, name := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := fs.ReadFile(root, name); err == nil {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
			if err == nil && n > 0 { // "max" is none
				return n
			}
		}
	}
	return 0
}

func meminfo(root fs.FS) int64 {
	b, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == "MemTotal:" {
			kib, _ := strconv.ParseInt(string(f[1]), 10, 64)
			return kib << 10
		}
	}
	return 0
}
