package main

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/datastax/go-cassandra-native-protocol/primitive"
)

// relayStreams bounds the stream ids of a client; the load uses fewer than 64.
const relayStreams = 128

// runRelay is the floor for a dual-write proxy in Go: each client has one
// connection to either side and keeps its stream ids; writes go to both and are
// answered when both have answered, reads go to Origin. It decides by one byte
// and checks nothing. Three goroutines for each client: one reads the client,
// one either side; each writes once for every read.
// With a file of certificate and key it speaks TLS to clients.
func runRelay(listen, origin, target, certificate string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, certificate)
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := relayClient(c, origin, target); err != nil {
				fmt.Println("relay:", err)
			}
		}()
	}
}

type relayed struct {
	client net.Conn
	sides  [2]net.Conn
	legs   [relayStreams]atomic.Int32 // answers that a stream waits for

	mu sync.Mutex // held while the client is written to
}

func relayClient(c net.Conn, origin, target string) error {
	defer c.Close()
	r := &relayed{client: c}
	for i, address := range []string{origin, target} {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer nc.Close()
		r.sides[i] = nc
	}
	var wg sync.WaitGroup
	for i := range r.sides {
		wg.Go(func() {
			r.answers(r.sides[i])
			c.Close()
		})
	}
	err := r.requests()
	r.sides[0].Close()
	r.sides[1].Close()
	wg.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (r *relayed) requests() error {
	var toTarget []byte
	return eachBatch(r.client, func(frames []byte) error {
		toTarget = toTarget[:0]
		for b := frames; len(b) > 0; {
			f := b[:frameLen(b)]
			b = b[len(f):]
			stream := binary.BigEndian.Uint16(f[2:])
			if stream >= relayStreams {
				return fmt.Errorf("stream id %d is above %d", stream, relayStreams-1)
			}
			if isRead(f) {
				r.legs[stream].Store(1)
			} else {
				r.legs[stream].Store(2)
				toTarget = append(toTarget, f...)
			}
		}
		if _, err := r.sides[0].Write(frames); err != nil || len(toTarget) == 0 {
			return err
		}
		_, err := r.sides[1].Write(toTarget)
		return err
	})
}

func (r *relayed) answers(side net.Conn) error {
	var out []byte
	return eachBatch(side, func(frames []byte) error {
		out = out[:0]
		for b := frames; len(b) > 0; {
			f := b[:frameLen(b)]
			b = b[len(f):]
			if stream := binary.BigEndian.Uint16(f[2:]); stream < relayStreams && r.legs[stream].Add(-1) == 0 {
				out = append(out, f...)
			}
		}
		if len(out) == 0 {
			return nil
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		_, err := r.client.Write(out)
		return err
	})
}

func isRead(f []byte) bool {
	switch primitive.OpCode(f[4]) {
	case primitive.OpCodeExecute:
		return f[headerLen+2] == readVerb[0]
	case primitive.OpCodeQuery:
		return f[headerLen+4] == readVerb[0]
	}
	return false
}

func frameLen(b []byte) int { return headerLen + int(binary.BigEndian.Uint32(b[5:])) }

// eachBatch calls f with as many whole frames as each read gives.
func eachBatch(nc net.Conn, f func(frames []byte) error) error {
	buf := make([]byte, 8<<10)
	have := 0
	for {
		n, err := nc.Read(buf[have:])
		have += n
		whole := 0
		for have-whole >= headerLen && have-whole >= frameLen(buf[whole:]) {
			whole += frameLen(buf[whole:])
		}
		if whole > 0 {
			if err := f(buf[:whole]); err != nil {
				return err
			}
			have = copy(buf, buf[whole:have])
		}
		if err != nil {
			return err
		}
		if have == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}
