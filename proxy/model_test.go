package proxy_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zdmproject/terraform-provider-zdm/proxy/phase"
)

// The model test: a history is made at random, as data; it is carried out by a
// proxy between two scripted nodes, which note what they applied; then what the
// clients were told is held against that (model_check_test.go). It knows the
// rules, and nothing of how the proxy keeps them.

var modelSeed = flag.Uint64("model.seed", 0, "run the one history of this seed, as a failed model test printed it")

// form is a kind of request.
type form uint8

const (
	insertText form = iota
	insertPrepared
	appendText // to a list
	appendPrepared
	counter
	conditional // IF NOT EXISTS
	withNow
	batchText
	batchLogged // of a text and, if there is one, a prepared statement
	batchUnlogged
	truncate
	read
	readPrepared
	nextPage
	prepareInsert
	prepareAppend
	prepareRead      // both sides have the same columns
	prepareOtherRead // they have not
	use
	forms
)

var formNames = [forms]string{"insert", "execute insert", "append", "execute append", "counter", "insert if not exists", "insert of now()",
	"batch as text", "logged batch", "unlogged batch", "truncate", "read", "execute read", "next page", "prepare insert", "prepare append",
	"prepare read", "prepare read with other columns", "use"}

func (f form) String() string { return formNames[f] }

// mutates: it changes rows.
func (f form) mutates() bool { return f <= truncate }

// idempotent: applying it twice is the same as once, and the text shows it.
func (f form) idempotent() bool { return f == insertText || f == insertPrepared || f == batchText }

func (f form) prepares() bool { return f >= prepareInsert && f <= prepareOtherRead }

// executes is what an EXECUTE needs to have been prepared; false for others.
func (f form) executes(prepared form) bool {
	switch f {
	case insertPrepared:
		return prepared == prepareInsert
	case appendPrepared, batchLogged, batchUnlogged:
		return prepared == prepareAppend
	case readPrepared:
		return prepared == prepareRead || prepared == prepareOtherRead
	}
	return false
}

// fate is what a node does with a request.
type fate uint8

const (
	well   fate = iota // carries it out and says so
	slow               // says so only when the clients wait
	forgot             // has forgotten the prepared statement, and is then well
	// Refusals that are the node's word that it applied nothing.
	overloaded
	serverError
	unavailable
	bootstrapping
	invalid
	batchLog // WRITE_TIMEOUT of the batch log
	// It may have been applied, and the node says so: it was, and it was not.
	timedOut
	timedOutBefore
	failedAfter
	// No answer.
	resetAfter // it is applied, and the connection reset
	resetBefore
	silentAfter
	silentBefore
	fates
)

var fateNames = [fates]string{"well", "slow", "forgotten", "OVERLOADED", "SERVER_ERROR", "UNAVAILABLE", "IS_BOOTSTRAPPING", "INVALID",
	"WRITE_TIMEOUT BATCH_LOG", "applied, WRITE_TIMEOUT", "not applied, WRITE_TIMEOUT", "applied, WRITE_FAILURE",
	"applied, connection reset", "not applied, connection reset", "applied, silence", "not applied, silence"}

func (f fate) String() string { return fateNames[f] }

// applies: the node carries the request out.
func (f fate) applies() bool {
	switch f {
	case well, slow, forgot, timedOut, failedAfter, resetAfter, silentAfter:
		return true
	}
	return false
}

// action is what a step does.
type action uint8

const (
	ask     action = iota // a client sends a request and does not wait
	settle                // all clients wait for all their answers
	connect               // a client, anew; its old connection is closed
	move                  // to another phase
	stop                  // a node ends
	revive                // and is back
	drop                  // a node resets its connections
	forget                // a node forgets all prepared statements
)

// step of a history. Which fields mean something depends on do.
type step struct {
	do     action
	client int
	side   phase.Side
	to     phase.Phase

	// Of ask. id is in the text or the values of the request, and nowhere else.
	id     int
	form   form
	of     int // id of the step that prepared what it executes; 0 for none
	fate   [2]fate
	pages  bool // of a read: there are more
	noMeta bool // of a read: the client wants no metadata with the rows
}

func (s step) String() string {
	switch s.do {
	case settle:
		return "all wait for their answers"
	case connect:
		return fmt.Sprintf("client %d connects anew", s.client)
	case move:
		return fmt.Sprintf("phase %s", s.to)
	case stop:
		return fmt.Sprintf("%s ends", s.side)
	case revive:
		return fmt.Sprintf("%s is back", s.side)
	case drop:
		return fmt.Sprintf("%s resets its connections", s.side)
	case forget:
		return fmt.Sprintf("%s forgets what was prepared", s.side)
	}
	text := fmt.Sprintf("client %d asks id-%d: %s", s.client, s.id, s.form)
	if s.of != 0 {
		text += fmt.Sprintf(" prepared by id-%d", s.of)
	}
	if s.pages {
		text += ", more pages"
	}
	if s.noMeta {
		text += ", no metadata"
	}
	for _, side := range phase.Sides {
		if s.fate[side] != well {
			text += fmt.Sprintf("; at %s %s", side, s.fate[side])
		}
	}
	return text
}

const modelClients = 3

// history makes the steps of a seed. A patient one has no lost answers and no
// node that is away, so that nothing waits for a time-out.
func history(seed uint64) []step {
	r, patient := rand.New(rand.NewPCG(seed, 1)), isPatient(seed)
	at := phase.DualWrite
	clean := r.IntN(4) == 0 // nothing goes wrong
	var steps []step
	var prepared [modelClients][]step
	down := [2]bool{}
	anyFate := func() fate {
		switch {
		case clean || r.IntN(4) > 0:
			return well
		case patient:
			return fate(r.IntN(int(resetAfter)))
		}
		return fate(r.IntN(int(fates)))
	}
	id := 1
	for client := range modelClients {
		for range 2 {
			s := step{do: ask, client: client, id: id, form: prepareInsert + form(r.IntN(int(use-prepareInsert)))}
			prepared[client] = append(prepared[client], s)
			steps = append(steps, s)
			id++
		}
	}
	steps = append(steps, step{do: settle})
	for last := id + 5 + r.IntN(20); id < last; {
		s := step{do: ask, client: r.IntN(modelClients), side: phase.Sides[r.IntN(2)]}
		switch n := r.IntN(100); {
		case n < 65:
			if s.id, s.form = id, form(r.IntN(int(forms))); s.form.prepares() && r.IntN(2) == 0 {
				s.form = readPrepared
			}
			s.fate = [2]fate{anyFate(), anyFate()}
			s.pages, s.noMeta = r.IntN(3) == 0, r.IntN(2) == 0
			for _, p := range prepared[s.client] {
				if s.form.executes(p.form) {
					s.of = p.id
				}
			}
			if s.form.prepares() {
				prepared[s.client] = append(prepared[s.client], s)
			}
			id++
		case n < 80:
			s.do = settle
		case n < 92:
			s.do = move
			if to := int(at) + 1 - 2*r.IntN(2); to >= int(phase.OriginOnly) && to <= int(phase.TargetOnly) {
				at = phase.Phase(to)
			}
			s.to = at
		case n < 94:
			s.do, prepared[s.client] = connect, nil
		case n < 96 && !clean:
			s.do = forget
		case n < 98 && !clean && !patient:
			s.do = drop
		case !clean && !patient:
			if s.do = stop; down[s.side] {
				s.do = revive
			}
			down[s.side] = !down[s.side]
		}
		if s.do != ask || s.id != 0 {
			steps = append(steps, s)
		}
	}
	return append(steps, step{do: settle})
}

// clean reports whether nothing goes wrong in a history.
func clean(steps []step) bool {
	for _, s := range steps {
		if s.do >= stop || s.fate[0] > forgot || s.fate[1] > forgot {
			return false
		}
	}
	return true
}

// seedSource gives the seed of the next history, of a patient one or another:
// the lowest bit says which.
type seedSource func(patient bool) (seed uint64, more bool)

func isPatient(seed uint64) bool { return seed&1 == 0 }

func TestRandomHistoriesKeepWhatMustAlwaysHold(t *testing.T) {
	t.Parallel()
	const patientOnes, others = 1000, 100 // the others wait for time-outs
	var taken, patientTaken atomic.Uint64
	runHistories(t, func(patient bool) (uint64, bool) {
		if patient {
			n := patientTaken.Add(1)
			return n << 1, n <= patientOnes
		}
		n := taken.Add(1)
		return n<<1 | 1, n <= others
	})
}

func TestLongRandomHistoriesKeepWhatMustAlwaysHold(t *testing.T) {
	text := os.Getenv("ZDM_TEST_LONG")
	if text == "" {
		t.Skip("SKIPPED, takes minutes: make test-long runs it; LONG=10m is how long")
	}
	long, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("ZDM_TEST_LONG: %v", err)
	}
	end := time.Now().Add(long)
	runHistories(t, func(patient bool) (uint64, bool) {
		seed := rand.Uint64() | 1
		if patient {
			seed &^= 1
		}
		return seed, time.Now().Before(end)
	})
}

// runHistories carries histories out, several at the same time, each on a proxy
// that has just carried out others. Some of the proxies wait for long, and have
// the patient histories.
func runHistories(t *testing.T, seeds seedSource) {
	if *modelSeed != 0 {
		var once atomic.Bool
		seeds = func(patient bool) (uint64, bool) {
			return *modelSeed, patient == isPatient(*modelSeed) && once.CompareAndSwap(false, true)
		}
	}
	var (
		total  tally
		failed atomic.Bool
		wg     sync.WaitGroup
	)
	// Not as parallel subtests, of which there are no more than processors: most
	// of these wait.
	const patientWorlds, worlds = 4, 20
	for i := range worlds {
		wg.Go(func() {
			t.Run(fmt.Sprint("world ", i), func(t *testing.T) {
				patient := i < patientWorlds
				m := newModel(t, patient)
				defer func() { failed.Store(failed.Load() || t.Failed()) }()
				for seed, more := seeds(patient); more && !failed.Load(); seed, more = seeds(patient) {
					m.carryOut(t, seed, &total)
				}
			})
		})
	}
	wg.Wait()
	t.Logf("%v", &total)
	if !t.Failed() && *modelSeed == 0 {
		total.check(t)
	}
}
