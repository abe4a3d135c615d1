//go:build unix

package tunnel

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// sessions returns the two ends of a tunnel over TCP.
func sessions(b *testing.B) (client, server Session) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ids := [2]*Identity{}
	for i := range ids {
		if ids[i], err = NewIdentity(); err != nil {
			b.Fatal(err)
		}
	}
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	y, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		server, err = Server(context.Background(), y, ids[1], ids[0].Fingerprint())
		done <- err
	}()
	if client, err = Client(context.Background(), x, ids[0], ids[1].Fingerprint()); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// cpu is the CPU time of both ends, which says something on a busy machine too.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func echo(s Session) {
	for {
		st, err := s.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(st, st); _ = st.CloseWrite() }()
	}
}

// BenchmarkPingPong sends one small message there and back at a time.
func BenchmarkPingPong(b *testing.B) {
	client, server := sessions(b)
	go echo(server)
	st, err := client.Open(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 100)
	before := cpu()
	b.ResetTimer()
	for range b.N {
		if _, err := st.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(st, p); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkCrowd does so on many streams at once.
func BenchmarkCrowd(b *testing.B) {
	client, server := sessions(b)
	go echo(server)
	before := cpu()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		st, err := client.Open(context.Background())
		if err != nil {
			b.Error(err)
			return
		}
		p := make([]byte, 100)
		for pb.Next() {
			_, _ = st.Write(p)
			_, _ = io.ReadFull(st, p)
		}
	})
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkBulk sends one MiB at a time.
func BenchmarkBulk(b *testing.B) {
	client, server := sessions(b)
	go func() {
		st, _ := server.Accept()
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{st}, make([]byte, 128<<10))
	}()
	st, err := client.Open(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	before := cpu()
	b.ResetTimer()
	for range b.N {
		if _, err := st.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}
