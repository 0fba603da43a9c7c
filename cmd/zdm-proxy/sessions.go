package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/session"
)

// maxMessage bounds a message of the sessions protocol: the first one carries
// every prepared statement.
const maxMessage = 1 << 30

// moveTo connects to the process that takes over, and returns how clients are
// handed to it. Close the connection when all have been. What is slow may take until
// ctx's deadline: giving up on a client sooner would close it.
func moveTo(ctx context.Context, socket string) (session.Move, io.Closer, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, err
	}
	conn := nc.(*net.UnixConn)
	if err := upgrade(conn, control.PathSessions, control.SessionsProtocol); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // an error shows below
	return func(m control.Message, client *net.TCPConn) error { return sendMessage(conn, m, client) }, conn, nil
}

// upgrade asks for another protocol on a fresh connection.
func upgrade(conn *net.UnixConn, path, protocol string) error {
	_ = conn.SetDeadline(time.Now().Add(handoverTimeout)) // an error shows below
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: proxy\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n", path, protocol); err != nil {
		return err
	}
	return readSwitching(conn)
}

// sendMessage sends one message and waits for its answer. It is called by one
// goroutine at a time.
func sendMessage(conn *net.UnixConn, m control.Message, client *net.TCPConn) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(len(text)))
	if client == nil {
		_, err = conn.Write(length)
	} else {
		err = sendDescriptor(conn, length, client)
	}
	if err != nil {
		return err
	}
	if _, err := conn.Write(text); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if answer[0] != control.MessageTaken {
		return errors.New("refused by the process that takes over; its log says why")
	}
	return nil
}

func sendDescriptor(conn *net.UnixConn, first []byte, client *net.TCPConn) error {
	raw, err := client.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) {
		_, _, sent = conn.WriteMsgUnix(first, syscall.UnixRights(int(fd)), nil)
	}); err != nil {
		return err
	}
	return sent
}

// sessions takes the clients of a process that drains.
func (p *controlled) sessions(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != control.SessionsProtocol {
		reply(w, http.StatusUpgradeRequired, control.Error{Text: "Upgrade: " + control.SessionsProtocol + " is missing"})
		return
	}
	srv, err := p.server()
	if err != nil {
		reply(w, http.StatusConflict, control.Error{Text: err.Error()})
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		reply(w, http.StatusInternalServerError, control.Error{Text: err.Error()})
		return
	}
	defer conn.Close()
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	if err := switchTo(unix, control.SessionsProtocol); err != nil {
		p.log.Error("take clients over", "cause", err)
		return
	}
	// The other process ends the connection when its last client has moved. A
	// message comes only when a client is between two requests, so there is no
	// bound on the time between two.
	_ = unix.SetDeadline(time.Time{})
	taken := 0
	for {
		m, client, err := receiveMessage(unix)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.log.Error("take clients over", "cause", err)
			}
			break
		}
		answer := control.MessageTaken
		if err := srv.Adopt(p.life, m, client); err != nil {
			p.log.Error("take a client over", "cause", err)
			answer = control.MessageRefused
			if client != nil {
				_ = client.Close() // this process's copy
			}
		} else if client != nil {
			taken++
		}
		if _, err := unix.Write([]byte{answer}); err != nil {
			p.log.Error("take clients over", "cause", err)
			break
		}
	}
	p.log.Info("clients taken over", "clients", taken)
}

// switchTo answers 101.
func switchTo(conn net.Conn, protocol string) error {
	_ = conn.SetDeadline(time.Now().Add(handoverTimeout)) // an error shows below
	_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
	return err
}

// receiveMessage reads one message, and the client that comes with it.
func receiveMessage(conn *net.UnixConn) (m control.Message, client net.Conn, err error) {
	length, oob := make([]byte, 4), make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(length, oob)
	if err != nil {
		return m, nil, err
	}
	if n == 0 {
		return m, nil, io.EOF
	}
	if client, err = receivedClient(oob[:oobn]); err != nil {
		return m, nil, err
	}
	fail := func(err error) (control.Message, net.Conn, error) {
		if client != nil {
			_ = client.Close()
		}
		return m, nil, err
	}
	if _, err := io.ReadFull(conn, length[n:]); err != nil {
		return fail(err)
	}
	size := binary.BigEndian.Uint32(length)
	if size > maxMessage {
		return fail(fmt.Errorf("message of %d bytes exceeds %d", size, maxMessage))
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(conn, text); err != nil {
		return fail(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return fail(err)
	}
	if (m.Session != nil) != (client != nil) {
		return fail(errors.New("a session and its socket come together"))
	}
	return m, client, nil
}

func receivedClient(oob []byte) (net.Conn, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		descriptors, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		for _, d := range descriptors {
			f := os.NewFile(uintptr(d), "client")
			defer f.Close() // FileConn has its own copy
			return net.FileConn(f)
		}
	}
	return nil, nil
}
