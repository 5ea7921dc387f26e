//go:build !linux

package realparts

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
