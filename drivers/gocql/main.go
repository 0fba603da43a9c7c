// The cases of README.md with both gocql drivers: the build tags gocql1 and
// gocql2 choose one. Their interfaces differ in what the file of each names.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

type job struct {
	Contacts    []string
	Port        int
	Username    string
	Password    string
	Datacenter  string
	Keyspace    string
	Version     int
	Compression string
	TLS         *struct{ CA, Cert, Key string }
	Cases       []string
	Run         string
	Table       string
	Workers     int
	PauseMillis int `json:"pause_ms"`
}

// answer is what a case adds to its line of output.
type answer map[string]any

func say(name string, err error, more answer) {
	line := answer{"case": name, "ok": err == nil}
	if err != nil {
		line["detail"] = err.Error()
	}
	for k, v := range more {
		line[k] = v
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}

func main() {
	var j job
	in := bufio.NewReader(os.Stdin)
	text, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(text, &j)
	}
	if err != nil {
		say("connect", fmt.Errorf("read the job: %w", err), nil)
		return
	}
	p, err := connect(j)
	if err != nil {
		say("connect", err, nil)
		return
	}
	defer p.Close()
	cases := map[string]func() (answer, error){
		"connect": p.connected, "types": p.types, "paging": p.paging, "batches": p.batches, "lwt": p.lwt, "schema": p.schema, "tokens": p.tokens,
		"load": func() (answer, error) { return p.load(func() { _, _ = io.Copy(io.Discard, in) }), nil },
	}
	for _, name := range j.Cases {
		more, err := cases[name]()
		say(name, err, more)
	}
}
