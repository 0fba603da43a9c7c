package client

import (
	"os"
	"strings"
	"sync"
	"testing"
)

func nothing() int64 { return 0 }

func testBudget(limit int64) *Budget { return NewBudget(limit, [2]func() int64{nothing, nothing}) }

func TestABudgetKnowsOfEachClientWithinItsSlackAndOfNoneInTheEnd(t *testing.T) {
	t.Parallel()
	b := testBudget(1 << 30)
	const clients, requests, each = 8, 500, 1000
	var all [clients]account
	var sum sync.WaitGroup
	for i := range all {
		all[i].budget = b
		for range 2 { // the goroutine that reads, and those that answer
			sum.Go(func() {
				for range requests {
					all[i].add(each)
				}
			})
		}
	}
	sum.Wait()
	const held = int64(clients * 2 * requests * each)
	if off := held - b.Used(); off < 0 || off > clients*budgetSlack {
		t.Errorf("the budget knows of %d bytes of %d, want it within %d", b.Used(), held, clients*budgetSlack)
	}
	for i := range all {
		all[i].setUnread(10 << 20)
		sum.Go(func() {
			for range requests {
				all[i].add(-each)
			}
		})
		sum.Go(all[i].end)
		sum.Go(func() {
			for range requests {
				all[i].add(-each)
			}
		})
	}
	sum.Wait()
	if b.Used() != 0 {
		t.Errorf("when all have ended the budget knows of %d bytes, want none", b.Used())
	}
}

func TestAClientIsFullWhenItHoldsTooMuchOrAllDoAndItIsAmongThem(t *testing.T) {
	t.Parallel()
	const own, all = 1 << 20, 4 << 20
	for _, test := range []struct {
		name                  string
		held, unread, towards int64
		want                  bool
	}{
		{"nothing", 0, 0, 0, false},
		{"as much as it may", own, 0, 0, false},
		{"more than it may", own + 1, 0, 0, true},
		{"unread answers count", own / 2, own/2 + 1, 0, true},
		{"all hold too much, it holds something", 1, 0, all, true},
		{"all hold too much, it holds nothing", 0, 0, all + 1, false},
	} {
		b := NewBudget(all, [2]func() int64{nothing, func() int64 { return test.towards }})
		a := account{budget: b}
		a.add(test.held)
		a.setUnread(test.unread)
		if test.towards == all {
			b.used.Add(1)
		}
		if got := a.full(own); got != test.want {
			t.Errorf("%s: full is %t, want %t", test.name, got, test.want)
		}
	}
}

func TestTheMemoryOfTheMachineIsTheLeastThatAnyoneTells(t *testing.T) {
	t.Parallel()
	const meminfo = "MemTotal:       24689764 kB\nMemFree:         1234 kB\n"
	for _, test := range []struct {
		name, v2, v1, meminfo string
		want                  int64
	}{
		{"a machine", "", "", meminfo, 24689764 << 10},
		{"a container", "536870912\n", "", meminfo, 512 << 20},
		{"a container without a limit", "max\n", "", meminfo, 24689764 << 10},
		{"an old container", "", "268435456\n", meminfo, 256 << 20},
		{"an old container without a limit", "", "9223372036854771712\n", meminfo, 24689764 << 10},
		{"nothing to be read", "", "", "", 0},
	} {
		got := machineMemory(func(path string) ([]byte, error) {
			text := test.meminfo
			switch {
			case strings.HasSuffix(path, "memory.max"):
				text = test.v2
			case strings.HasSuffix(path, "limit_in_bytes"):
				text = test.v1
			}
			if text == "" {
				return nil, os.ErrNotExist
			}
			return []byte(text), nil
		})
		if got != test.want {
			t.Errorf("%s has %d bytes, want %d", test.name, got, test.want)
		}
	}
}
