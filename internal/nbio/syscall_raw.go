//go:build linux && !race

package nbio

import (
	"syscall"
	"unsafe"
)

// maxRaw is the longest read or write that the scheduler is not told of: a few
// tens of microseconds of copying.
const maxRaw = 64 << 10

// rawRead and rawWrite are read(2) and write(2) of a socket that does not block.
// The scheduler need not know of them: it would take the processor away from a
// call that lasts for 20 microseconds, and wake a thread for what waits
// meanwhile, which costs more than the call. A collection of garbage that stops
// the world waits until the call returns, and so long ones are made as usual.
func rawRead(fd int, p []byte) (int, error) {
	if len(p) == 0 || len(p) > maxRaw {
		return syscall.Read(fd, p)
	}
	return raw(syscall.SYS_READ, fd, p)
}

func rawWrite(fd int, p []byte) (int, error) {
	if len(p) == 0 || len(p) > maxRaw {
		return syscall.Write(fd, p)
	}
	return raw(syscall.SYS_WRITE, fd, p)
}

func raw(call uintptr, fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
