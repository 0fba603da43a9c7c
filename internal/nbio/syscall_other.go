//go:build !linux || race

package nbio

import "syscall"

// The race detector takes what is written to a socket and read from it for
// ordered, which it learns from these calls only.

func rawRead(fd int, p []byte) (int, error)  { return syscall.Read(fd, p) }
func rawWrite(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }
