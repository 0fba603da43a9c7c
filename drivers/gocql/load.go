package main

import (
	"fmt"
	"sync"
	"time"
)

// count is how requests of a kind ended.
type count struct {
	OK     int `json:"ok"`
	Failed int `json:"failed"`
}

// load makes requests until ended returns.
func (p *program) load(ended func()) answer {
	var mu sync.Mutex
	counts, failures := map[string]*count{"read": {}, "idempotent": {}, "other": {}}, map[string]int{}
	do := func(kind, text string, args ...any) {
		q := p.Query(text, args...)
		if kind != "other" {
			q = q.Idempotent(true).RetryPolicy(again)
		}
		err := q.Exec()
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			counts[kind].OK++
			return
		}
		counts[kind].Failed++
		failures[fmt.Sprintf("%s: %v", kind, err)]++
	}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for w := range p.Workers {
		workers.Go(func() {
			for n := 1; ; n++ {
				do("read", "SELECT value FROM keys WHERE run = ? AND id = ?", p.Run, w)
				do("idempotent", "INSERT INTO keys (run, id, value) VALUES (?, ?, ?)", p.Run, w, fmt.Sprint(n))
				do("other", "UPDATE items SET tags = tags + ? WHERE run = ? AND id = ?", []int{n % 100}, fmt.Sprint(p.Run, w, n/100), n%100)
				if n == 20 && w == 0 {
					say("load", nil, answer{"detail": "running"})
				}
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(p.PauseMillis) * time.Millisecond):
				}
			}
		})
	}
	ended()
	close(stop)
	workers.Wait()
	return answer{"counts": counts, "errors": failures}
}
