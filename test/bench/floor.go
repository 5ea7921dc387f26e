package main

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/braidmq/braid/test/realparts"
)

func runFloor(b *bench) report {
	b.floor = measureFloor(b)
	return report{tables: []table{{
		header: []string{"", "CPU ms/MB"},
		rows:   [][]string{{"copy loop, one reused buffer of 1 MiB", figure(b.floor)}},
	}}}
}

// measureFloor returns the CPU that a copy loop takes for each MB, in ms.
func measureFloor(b *bench) float64 {
	s := &scope{TB: b.tb}
	defer s.cleanup()
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer func() { _ = sink.Close() }()
	address := realparts.FreeAddress(s)
	p := startChild(s, s.TempDir(), "copy", "BRAID_BENCH_LISTEN="+address, "BRAID_BENCH_TARGET="+sink.Addr().String())
	check(p.Ready(func() error {
		// A connection without bytes.
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		_ = c.Close()
		out, err := sink.Accept()
		if err != nil {
			return err
		}
		return out.Close()
	}))
	bytes := int64(b.size(1000, 100)) * 1e6
	var rounds []used
	for range b.rounds {
		u := used{bytes: bytes}
		before := cpu(p.PID())
		pump(address, sink, bytes)
		u.cpu = map[string]time.Duration{"copy": cpu(p.PID()) - before}
		rounds = append(rounds, u)
	}
	return median(rounds, perMB("copy"))
}

// pump sends bytes to an address, and takes them in again at a listener.
func pump(address string, sink net.Listener, bytes int64) {
	in, err := net.Dial("tcp", address)
	check(err)
	out, err := sink.Accept()
	check(err)
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 1<<20)
		for left := bytes; left > 0; {
			n, err := in.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				sent <- err
				return
			}
			left -= int64(n)
		}
		sent <- in.Close()
	}()
	buf := make([]byte, 1<<20)
	var got int64
	for {
		n, err := out.Read(buf)
		got += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		check(err)
	}
	check(<-sent)
	check(out.Close())
	if got != bytes {
		check(io.ErrUnexpectedEOF)
	}
}
