package lab_test

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/internal/cqltest"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab"
	"github.com/zdmproject/terraform-provider-zdm/internal/lab/labtest"
)

const (
	soakClients = 2000
	// soakInFlight requests are under way at a time, as fast as they are
	// answered; each client has its turn.
	soakInFlight = 64
	// soakTurns is after how many requests of a worker one of its clients
	// connects anew.
	soakTurns = 200
	// soakWindows is into how many windows the time is cut. Of them the first two
	// are for warming up; then the higher half of what a process holds must not
	// come to be in the later ones.
	soakWindows, soakWarm = 10, 2
)

// holds is what the proxy holds at the end of a window.
type holds struct{ memory, goroutines, descriptors float64 }

// mayGrow is by how much the most that the later windows hold may be above the
// most of the earlier ones: a garbage collection more or less, a connection to a
// node that is opened.
var mayGrow = holds{memory: 16 << 20, goroutines: 40, descriptors: 40}

// mayFail is how many answers in a hundred may be errors: nodes that share two
// cores with the load time out now and then.
const mayFail = 1

func TestLongSoakLevelsOff(t *testing.T) {
	text := os.Getenv("ZDM_TEST_LONG")
	if text == "" {
		t.Skip("SKIPPED, takes minutes: make test-long runs it; LONG=10m is how long")
	}
	long, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("ZDM_TEST_LONG: %v", err)
	}
	l := labtest.Lab(t)
	keyspace := labtest.Keyspace(t, l)
	for _, c := range l.Clusters() {
		exec(t, labtest.Session(t, c, keyspace), "CREATE TABLE t (k text PRIMARY KEY, v text)")
	}
	p, err := l.StartProxy(t.Context(), lab.ProxyOptions{Env: map[string]string{
		"ZDM_PHASE": "dual_read", "ZDM_PROXY_MAX_CLIENT_CONNECTIONS": fmt.Sprint(soakClients + soakInFlight),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})

	s := &soak{t: t, address: fmt.Sprintf("%s:%d", p.ListenAddress, p.Port), keyspace: keyspace,
		login: cqltest.Login{Username: l.Target.Username, Password: l.Target.Password}, end: make(chan struct{})}
	var workers sync.WaitGroup
	stop := sync.OnceFunc(func() { close(s.end); workers.Wait() })
	t.Cleanup(stop)
	var ready sync.WaitGroup
	for id := range soakInFlight {
		ready.Add(1)
		workers.Go(func() { s.work(id, ready.Done) })
	}
	ready.Wait()

	var levels []holds
	for i := range soakWindows {
		before := s.answered.Load()
		wait(t, long/soakWindows)
		now := look(t, p)
		levels = append(levels, now)
		t.Logf("window %2d: %4.0f MB, %4.0f goroutines, %4.0f descriptors; %6.0f requests a second, %d errors so far, %d clients came anew",
			i+1, now.memory/(1<<20), now.goroutines, now.descriptors, float64(s.answered.Load()-before)/(long/soakWindows).Seconds(), s.failed.Load(), s.anew.Load())
		if s.answered.Load() == before {
			t.Errorf("no request was answered in window %d", i+1)
		}
	}
	stop()
	if failed, answered := s.failed.Load(), s.answered.Load(); failed*100 > answered*mayFail {
		t.Errorf("%d of %d answers are errors, more than %d in a hundred", failed, answered, mayFail)
	}
	levels = levels[soakWarm:]
	early, late := most(levels[:len(levels)/2]), most(levels[len(levels)/2:])
	for _, c := range []struct {
		what                string
		early, late, growth float64
	}{
		{"bytes of memory", early.memory, late.memory, mayGrow.memory},
		{"goroutines", early.goroutines, late.goroutines, mayGrow.goroutines},
		{"descriptors", early.descriptors, late.descriptors, mayGrow.descriptors},
	} {
		if c.late > c.early+c.growth {
			t.Errorf("the proxy came to hold %.0f %s, before it was %.0f at most; %.0f more may be", c.late, c.what, c.early, c.growth)
		}
	}
}

func most(levels []holds) (m holds) {
	for _, l := range levels {
		m = holds{max(m.memory, l.memory), max(m.goroutines, l.goroutines), max(m.descriptors, l.descriptors)}
	}
	return m
}

// look reads what the proxy says of itself.
func look(t *testing.T, p *lab.Proxy) holds {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(p.MetricsURL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var h holds
	fields := map[string]*float64{"process_resident_memory_bytes": &h.memory, "go_goroutines": &h.goroutines, "process_open_fds": &h.descriptors}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if field := fields[name]; field != nil {
			*field, _ = strconv.ParseFloat(value, 64)
		}
	}
	if h.memory == 0 || h.goroutines == 0 || h.descriptors < soakClients {
		t.Fatalf("%s tells %+v, with %d clients", p.MetricsURL, h, soakClients)
	}
	return h
}

// soak is the load.
type soak struct {
	t                 *testing.T
	address, keyspace string
	login             cqltest.Login
	end               chan struct{} // closed when it is over

	answered, failed, anew atomic.Int64
}

// work asks by its share of the clients in turn, one request at a time, until
// the end. ready is called once they are connected.
func (s *soak) work(id int, ready func()) {
	var clients []*cqltest.Client
	for range soakClients/soakInFlight + 1 {
		clients = append(clients, s.connect())
	}
	ready()
	if slices.Contains(clients, nil) {
		return
	}
	for n := 0; ; n++ {
		select {
		case <-s.end:
			return
		default:
		}
		i := n % len(clients)
		a := <-clients[i].Send(s.request(id, n))
		if a.Err != nil {
			s.t.Errorf("a client has lost its connection: %v", a.Err)
			return
		}
		if _, failed := a.Message().(message.Error); failed {
			s.failed.Add(1)
		}
		s.answered.Add(1)
		if n%soakTurns == soakTurns-1 {
			clients[i].Close()
			if clients[i] = s.connect(); clients[i] == nil {
				return
			}
			s.anew.Add(1)
		}
	}
}

func (s *soak) connect() *cqltest.Client {
	c, err := cqltest.Connect(s.t, s.address, s.login)
	if err != nil {
		s.t.Errorf("connect a client: %v", err)
		return nil
	}
	return c
}

func (s *soak) request(id, n int) message.Message {
	options := &message.QueryOptions{Consistency: primitive.ConsistencyLevelLocalQuorum}
	key := fmt.Sprintf("%d-%d", id, n/2%1000)
	if n%2 == 1 {
		return &message.Query{Query: fmt.Sprintf("SELECT v FROM %s.t WHERE k = '%s'", s.keyspace, key), Options: options}
	}
	return &message.Query{Query: fmt.Sprintf("INSERT INTO %s.t (k, v) VALUES ('%s', '%d %s')", s.keyspace, key, n, strings.Repeat("x", 80)), Options: options}
}
