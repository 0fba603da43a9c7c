package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
)

const (
	handoverTimeout = 10 * time.Second
	// maxHandover is the largest message, in bytes and descriptors: two listeners
	// with their addresses.
	maxHandover            = 4 << 10
	maxHandoverDescriptors = 8
)

// handover gives copies of the listening sockets to the process that asks. This
// one goes on accepting until it is told to drain, so that in between each
// connection is accepted by one of the two.
func (p *controlled) handover(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != control.HandoverProtocol {
		reply(w, http.StatusUpgradeRequired, control.Error{Text: "Upgrade: " + control.HandoverProtocol + " is missing"})
		return
	}
	p.mu.Lock()
	listeners := p.listeners
	p.mu.Unlock()
	message := control.Handover{}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, l := range listeners {
		tcp, ok := l.Listener.(*net.TCPListener)
		if !ok {
			continue
		}
		f, err := tcp.File()
		if err != nil {
			reply(w, http.StatusInternalServerError, control.Error{Text: fmt.Sprintf("copy the %s listener: %v", l.purpose, err)})
			return
		}
		files = append(files, f)
		message.Listeners = append(message.Listeners, control.Listener{Purpose: l.purpose, Address: l.Addr().String()})
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		reply(w, http.StatusInternalServerError, control.Error{Text: err.Error()})
		return
	}
	defer conn.Close()
	if err := giveListeners(conn, buffered, message, files); err != nil {
		p.log.Error("hand-over of the listening sockets", "cause", err)
	}
}

// giveListeners speaks the giving side of control.HandoverProtocol.
func giveListeners(conn net.Conn, buffered io.Reader, message control.Handover, files []*os.File) error {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	if err := switchTo(unix, control.HandoverProtocol); err != nil {
		return err
	}
	// The byte says that the other process has read the 101 and nothing more, so
	// that the descriptors arrive where it looks for them.
	if _, err := io.ReadFull(buffered, make([]byte, 1)); err != nil {
		return err
	}
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	descriptors := make([]int, len(files))
	for i, f := range files {
		// Not Fd: it would make the listener blocking, for both processes.
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { descriptors[i] = int(fd) }); err != nil {
			return err
		}
	}
	_, _, err = unix.WriteMsgUnix(text, syscall.UnixRights(descriptors...), nil)
	return err
}

// takeOver asks the process at socket for copies of its listening sockets.
func takeOver(ctx context.Context, socket string) ([]ownListener, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	unix := nc.(*net.UnixConn)
	if err := upgrade(unix, control.PathHandover, control.HandoverProtocol); err != nil {
		return nil, err
	}
	if _, err := unix.Write([]byte{'g'}); err != nil {
		return nil, err
	}
	return receiveListeners(unix)
}

// readSwitching reads the 101 byte by byte: a buffered reader could swallow the
// message that brings the descriptors.
func readSwitching(r io.Reader) error {
	var head []byte
	one := make([]byte, 1)
	for len(head) < 4 || string(head[len(head)-4:]) != "\r\n\r\n" {
		if len(head) > maxHandover {
			return errors.New("the answer has no end")
		}
		if _, err := io.ReadFull(r, one); err != nil {
			return err
		}
		head = append(head, one[0])
	}
	if len(head) < 12 || string(head[9:12]) != "101" {
		line, _, _ := strings.Cut(string(head), "\r\n")
		return fmt.Errorf("refused: %s", line)
	}
	return nil
}

func receiveListeners(unix *net.UnixConn) ([]ownListener, error) {
	text, oob := make([]byte, maxHandover), make([]byte, syscall.CmsgSpace(4*maxHandoverDescriptors))
	n, oobn, _, _, err := unix.ReadMsgUnix(text, oob)
	if err != nil {
		return nil, err
	}
	var descriptors []int
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		got, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		descriptors = append(descriptors, got...)
	}
	var message control.Handover
	err = json.Unmarshal(text[:n], &message)
	if err == nil && len(message.Listeners) != len(descriptors) {
		err = fmt.Errorf("%d listeners announced, %d descriptors received", len(message.Listeners), len(descriptors))
	}
	var out []ownListener
	for i, d := range descriptors {
		f := os.NewFile(uintptr(d), "listener")
		if err == nil {
			var l net.Listener
			if l, err = net.FileListener(f); err == nil {
				out = append(out, ownListener{message.Listeners[i].Purpose, l})
			}
		}
		_ = f.Close() // FileListener has its own copy
	}
	if err != nil {
		for _, l := range out {
			_ = l.Close()
		}
		return nil, err
	}
	return out, nil
}
