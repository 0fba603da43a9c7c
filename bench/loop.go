package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

const headerLen = 9 // version, flags, stream id (2), opcode, body length (4)

// loop serves nonblocking sockets in the goroutine that calls poll. After each
// read it hands over every whole frame and then writes once, so that requests
// and answers travel in batches as large as they came.
type loop struct {
	epoll    int
	listener int // -1: none
	sockets  map[int32]*socket
	buf      []byte
	events   [256]unix.EpollEvent
	reads    int64 // calls of read, to tell how large the batches are

	// frame may append to s.out. The frame is valid during the call.
	frame func(s *socket, frame []byte)
	ended func(s *socket, err error)
}

type socket struct {
	fd      int
	in      []byte // the beginning of a frame
	out     []byte // not yet taken by the kernel
	blocked bool   // registered for EPOLLOUT
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{epoll: fd, listener: -1, sockets: map[int32]*socket{}, buf: make([]byte, 256<<10)}, nil
}

func (l *loop) close() {
	for _, s := range l.sockets {
		unix.Close(s.fd)
	}
	unix.Close(l.epoll)
}

func (l *loop) listen(at netip.AddrPort) (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return at, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		return at, fmt.Errorf("listen on %s: %w", at, err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return at, err
	}
	l.listener = fd
	return netip.AddrPortFrom(at.Addr(), uint16(name.(*unix.SockaddrInet4).Port)), l.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
}

func (l *loop) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(l.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (l *loop) add(fd int) (*socket, error) {
	unix.SetNonblock(fd, true)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	s := &socket{fd: fd}
	l.sockets[int32(fd)] = s
	return s, l.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
}

func (l *loop) remove(s *socket, err error) {
	unix.Close(s.fd)
	delete(l.sockets, int32(s.fd))
	if l.ended != nil {
		l.ended(s, err)
	}
}

// poll waits up to the time-out (-1: for ever) and serves what is ready.
func (l *loop) poll(milliseconds int) error {
	n, err := unix.EpollWait(l.epoll, l.events[:], milliseconds)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, e := range l.events[:n] {
		if int(e.Fd) == l.listener {
			l.accept()
			continue
		}
		s := l.sockets[e.Fd]
		if s == nil {
			continue
		}
		if e.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			if err := l.read(s); err != nil {
				l.remove(s, err)
				continue
			}
		}
		if err := l.flush(s); err != nil {
			l.remove(s, err)
		}
	}
	return nil
}

func (l *loop) accept() {
	for {
		fd, _, err := unix.Accept4(l.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		if _, err := l.add(fd); err != nil {
			unix.Close(fd)
		}
	}
}

func (l *loop) read(s *socket) error {
	l.reads++
	have := copy(l.buf, s.in)
	n, err := unix.Read(s.fd, l.buf[have:])
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	if n == 0 {
		return unix.ECONNRESET
	}
	b := l.buf[:have+n]
	for len(b) >= headerLen {
		size := headerLen + int(binary.BigEndian.Uint32(b[5:]))
		if size > len(l.buf) {
			return fmt.Errorf("frame of %d bytes is more than this benchmark sends", size)
		}
		if len(b) < size {
			break
		}
		l.frame(s, b[:size])
		b = b[size:]
	}
	s.in = append(s.in[:0], b...)
	return nil
}

func (l *loop) flush(s *socket) error {
	for len(s.out) > 0 {
		n, err := unix.Write(s.fd, s.out)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			if !s.blocked {
				s.blocked = true
				return l.watch(unix.EPOLL_CTL_MOD, s.fd, unix.EPOLLIN|unix.EPOLLOUT)
			}
			return nil
		}
		if err != nil {
			return err
		}
		s.out = append(s.out[:0], s.out[n:]...)
	}
	if s.blocked {
		s.blocked = false
		return l.watch(unix.EPOLL_CTL_MOD, s.fd, unix.EPOLLIN)
	}
	return nil
}
