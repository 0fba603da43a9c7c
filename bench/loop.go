package main

import (
	"fmt"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	headerLen = 9         // version, flags, stream id (2), opcode, body length (4)
	readSize  = 256 << 10 // of one read
	maxFrame  = 4 << 20
)

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
	source  io.Reader                       // what carries frames; the descriptor if they come as they are
	pack    func(dst, frames []byte) []byte // into what goes to the socket; nil: as they are
	in      []byte                          // the beginning of a frame
	out     []byte                          // frames; without pack, not yet taken by the kernel
	packed  []byte                          // with pack, not yet taken by the kernel
	blocked bool                            // registered for EPOLLOUT
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{epoll: fd, listener: -1, sockets: map[int32]*socket{}, buf: make([]byte, readSize)}, nil
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
	s := &socket{fd: fd, source: descriptor(fd)}
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

// read hands over what has come. One read is all that a plain socket gets before
// the others; what is packed may hold more than one read tells.
func (l *loop) read(s *socket) error {
	_, plain := s.source.(descriptor)
	for {
		have := copy(l.buf, s.in)
		n, err := s.source.Read(l.buf[have:])
		if err == errAgain {
			return nil
		}
		if err != nil {
			return err
		}
		l.reads++
		if err := l.cut(s, l.buf[:have+n]); err != nil {
			return err
		}
		if plain {
			return nil
		}
	}
}

// cut hands over the whole frames of b, and keeps the rest.
func (l *loop) cut(s *socket, b []byte) error {
	for len(b) >= headerLen {
		size := frameLen(b)
		if size > maxFrame {
			return fmt.Errorf("frame of %d bytes is more than this benchmark sends", size)
		}
		if len(b) < size {
			if room := size + readSize; room > len(l.buf) {
				l.buf = make([]byte, room)
			}
			break
		}
		l.frame(s, b[:size])
		b = b[size:]
	}
	s.in = append(s.in[:0], b...)
	return nil
}

func (l *loop) flush(s *socket) error {
	out := &s.out
	if s.pack != nil {
		if len(s.out) > 0 {
			s.packed = s.pack(s.packed, s.out)
			s.out = s.out[:0]
		}
		out = &s.packed
	}
	for len(*out) > 0 {
		n, err := unix.Write(s.fd, *out)
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
		*out = append((*out)[:0], (*out)[n:]...)
	}
	if s.blocked {
		s.blocked = false
		return l.watch(unix.EPOLL_CTL_MOD, s.fd, unix.EPOLLIN)
	}
	return nil
}
