package appliance_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zdmproject/terraform-provider-zdm/proxy/config"
	"github.com/zdmproject/terraform-provider-zdm/proxy/control"
	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// fakeVariable makes the test binary a fake proxy process.
const fakeVariable = "FAKE_PROXY_FOR_TESTS"

func TestMain(m *testing.M) {
	if os.Getenv(fakeVariable) != "" {
		os.Exit(runFake(os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

// Contact points of Origin that make the fake misbehave.
const (
	hostGood    = "good.example"
	hostRefused = "refused.example" // answers the configuration with 422
	hostAway    = "away.example"    // never ready
	hostCrash   = "crash.example"   // ends on its configuration, with a last line
	hostNoServe = "noserve.example" // cannot open its port
	hostUnsafe  = "unsafe.example"  // refuses every proof
	hostOlder   = "older.example"   // takes nothing while it serves
)

// fake is a proxy process as far as package control goes: it opens its port,
// hands it over, and answers each line of a client with "GENERATION PHASE EPOCH".
type fake struct {
	mu       sync.Mutex
	st       control.Status
	conf     control.Config
	listener *net.TCPListener
	clients  sync.WaitGroup
	conns    map[net.Conn]bool
	end      chan struct{}
}

func runFake(socket string) int {
	f := &fake{st: control.Status{PID: os.Getpid(), Version: "fake", State: control.Idle}, end: make(chan struct{}), conns: map[net.Conn]bool{}}
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+control.PathStatus, func(w http.ResponseWriter, r *http.Request) { f.reply(w, nil) })
	mux.HandleFunc("GET "+control.PathMetrics, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, "fake_requests_total 7")
	})
	mux.HandleFunc("PUT "+control.PathConfig, f.config)
	mux.HandleFunc("POST "+control.PathPhasePrepare, f.prepare)
	mux.HandleFunc("POST "+control.PathPhase, f.phase)
	mux.HandleFunc("POST "+control.PathServe, f.serve)
	mux.HandleFunc("POST "+control.PathDrain, f.drain)
	mux.HandleFunc("POST "+control.PathHandover, f.handover)
	go http.Serve(l, mux)
	fmt.Println("fake proxy is idle")
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	select {
	case <-term:
	case <-f.end:
	}
	return 0
}

func (f *fake) reply(w http.ResponseWriter, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replyLocked(w, err)
}

func (f *fake) replyLocked(w http.ResponseWriter, err error) {
	var refused *control.Error
	switch {
	case err == nil:
		_ = json.NewEncoder(w).Encode(f.st)
	case errors.As(err, &refused):
		w.WriteHeader(422)
		_ = json.NewEncoder(w).Encode(refused)
	default:
		w.WriteHeader(409)
		_ = json.NewEncoder(w).Encode(control.Error{Text: err.Error()})
	}
}

func (f *fake) host() string { return f.conf.Settings["origin_contact_points"] }

func (f *fake) config(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var conf control.Config
	err := json.NewDecoder(r.Body).Decode(&conf)
	hot := f.st.State != control.Idle && config.OnlyHot(f.conf.Settings, conf.Settings) && f.host() != hostOlder
	if err != nil || f.st.State != control.Idle && !hot {
		f.replyLocked(w, errors.New("not now"))
		return
	}
	f.conf, f.st.Generation = conf, conf.Generation
	if hot {
		f.replyLocked(w, nil)
		return
	}
	f.st.State, f.st.Ready = control.Ready, true
	switch f.host() {
	case hostRefused:
		f.replyLocked(w, &control.Error{Text: "configuration refused", Problems: []string{"origin_contact_points: the fake does not like it"}})
		return
	case hostAway:
		f.st.State, f.st.Ready, f.st.NotReady = control.Connecting, false, []string{"origin: dial away.example: no such host"}
	case hostCrash:
		crash()
	}
	f.replyLocked(w, nil)
}

func (f *fake) prepare(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.host() == hostUnsafe {
		f.replyLocked(w, errors.New("target: login as app: Provided username and/or password are incorrect"))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *fake) phase(w http.ResponseWriter, r *http.Request) {
	var in control.Phase
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.Epoch < f.st.Epoch {
		f.replyLocked(w, fmt.Errorf("epoch %d is older than %d", in.Epoch, f.st.Epoch))
		return
	}
	f.st.Phase, f.st.Epoch, f.st.PhaseSince = in.Phase, in.Epoch, time.Now()
	f.replyLocked(w, nil)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	var in control.Serve
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.st.Phase == phase.None || f.host() == hostNoServe {
		f.replyLocked(w, errors.New("listen: address already in use"))
		return
	}
	var err error
	if in.TakeOver != "" {
		f.listener, err = takeOver(in.TakeOver)
	} else {
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort(f.conf.Settings["proxy_listen_address"], f.conf.Settings["proxy_listen_port"])); err == nil {
			f.listener = l.(*net.TCPListener)
		}
	}
	if err != nil {
		f.replyLocked(w, err)
		return
	}
	f.st.State, f.st.ListenAddress = control.Serving, f.listener.Addr().String()
	go f.accept(f.listener)
	f.replyLocked(w, nil)
}

func (f *fake) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[conn] = true
		f.clients.Add(1)
		f.mu.Unlock()
		go func() {
			defer f.clients.Done()
			defer conn.Close()
			lines := bufio.NewScanner(conn)
			for lines.Scan() {
				f.mu.Lock()
				text := fmt.Sprintf("%d %s %d\n", f.st.Generation, f.st.Phase, f.st.Epoch)
				f.mu.Unlock()
				if _, err := io.WriteString(conn, text); err != nil {
					return
				}
			}
		}()
	}
}

// drain stops accepting and reading, and ends.
func (f *fake) drain(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st.State = control.Draining
	if f.listener != nil {
		f.listener.Close()
	}
	for conn := range f.conns {
		conn.(*net.TCPConn).CloseRead()
	}
	f.replyLocked(w, nil)
	go func() {
		f.clients.Wait()
		time.Sleep(10 * time.Millisecond) // the answer above must get out
		close(f.end)
	}()
}

func (f *fake) handover(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	listener := f.listener
	f.mu.Unlock()
	if listener == nil || r.Header.Get("Upgrade") != control.HandoverProtocol {
		f.reply(w, errors.New("nothing to hand over"))
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", control.HandoverProtocol)
	rw.Flush()
	if _, err := rw.ReadByte(); err != nil {
		return
	}
	file, err := listener.File()
	if err != nil {
		return
	}
	defer file.Close()
	payload, _ := json.Marshal(control.Handover{Listeners: []control.Listener{{Purpose: "cql", Address: listener.Addr().String()}}})
	raw, err := file.SyscallConn() // Fd would make the socket blocking, in both processes
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = conn.(*net.UnixConn).WriteMsgUnix(payload, unix.UnixRights(int(fd)), nil)
	})
}

func takeOver(socket string) (*net.TCPListener, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	conn := c.(*net.UnixConn)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: proxy\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: 0\r\n\r\n", control.PathHandover, control.HandoverProtocol)
	head := make([]byte, 0, 512)
	for !strings.HasSuffix(string(head), "\r\n\r\n") { // byte by byte, so that nothing of the message is eaten
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil {
			return nil, err
		}
		head = append(head, one...)
	}
	if !strings.HasPrefix(string(head), "HTTP/1.1 101 ") {
		return nil, fmt.Errorf("hand-over refused: %q", head)
	}
	if _, err := conn.Write([]byte{0}); err != nil {
		return nil, err
	}
	payload, oob := make([]byte, 4096), make([]byte, 256)
	n, oobn, _, _, err := conn.ReadMsgUnix(payload, oob)
	if err != nil {
		return nil, err
	}
	var h control.Handover
	if err := json.Unmarshal(payload[:n], &h); err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != len(h.Listeners) {
		return nil, fmt.Errorf("%d descriptors for %d listeners: %w", len(fds), len(h.Listeners), err)
	}
	file := os.NewFile(uintptr(fds[0]), "listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// crash ends the process in the middle of whatever it does.
func crash() {
	fmt.Println("panic: the fake was told to crash")
	os.Exit(3)
}
