package httpsplit

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkRequest is one request after the other on a kept connection: directly, and split.
func BenchmarkRequest(b *testing.B) {
	for _, way := range []string{"direct", "split"} {
		b.Run(way, func(b *testing.B) {
			app := serve(b, named("app"))
			addr := app.addr
			if way == "split" {
				addr = split(b, app, app)
			}
			c := dial(b, addr)
			for b.Loop() {
				if _, err := io.WriteString(c, "GET /a HTTP/1.1\r\nHost: shop\r\n\r\n"); err != nil {
					b.Fatal(err)
				}
				res, err := http.ReadResponse(c.r, nil)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
			}
		})
	}
}
