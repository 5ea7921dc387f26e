package realparts

import "syscall"

// DieWithParent makes a child process die with this one, where the system can.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
