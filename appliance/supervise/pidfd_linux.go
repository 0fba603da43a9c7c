package supervise

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// watch waits for a process that is not our child, through a descriptor for
// exactly this process: its pid may be another's by the time it is signalled.
func (p *execProcess) watch() error {
	fd, err := unix.PidfdOpen(p.id.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	file := os.NewFile(uintptr(fd), p.name) // non-blocking, so the poller waits
	if !p.id.alive() {                      // between the look and the open
		file.Close()
		p.ended("ended before it was adopted")
		p.signal = func(syscall.Signal) error { return os.ErrProcessDone }
		return nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return err
	}
	p.release = func() { file.Close() }
	p.signal = func(s syscall.Signal) error {
		var sent error
		if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
			return os.ErrProcessDone
		}
		return sent
	}
	// Ends with the process, or with Release.
	go func() {
		err := raw.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || (err != nil && err != unix.EINTR)
		})
		if err != nil {
			return // released
		}
		file.Close()
		p.ended("ended; how is not known, because an earlier agent started it")
	}()
	return nil
}
