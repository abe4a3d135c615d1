package httpsplit

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCurl is a client that was not written for this.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl here")
	}
	app, local := serve(t, named("app")), serve(t, named("local"))
	app2, local2 := serve2(t, named("app")), serve2(t, named("local"))
	large := strings.Repeat("x", 2<<20) // which curl sends with Expect: 100-continue
	for name, tt := range map[string]struct {
		args []string
		app  *address
		want string
	}{
		"1.1":           {nil, app, "GET /x 0"},
		"1.0":           {[]string{"--http1.0"}, app, "GET /x 0"},
		"upload":        {[]string{"--data-binary", "@-"}, app, "POST /x 2097152"},
		"chunked":       {[]string{"-H", "Transfer-Encoding: chunked", "--data-binary", "@-"}, app, "POST /x 2097152"},
		"HTTP/2":        {[]string{"--http2-prior-knowledge"}, app2, "GET /x 0"},
		"HTTP/2 upload": {[]string{"--http2-prior-knowledge", "--data-binary", "@-"}, app2, "POST /x 2097152"},
	} {
		t.Run(name, func(t *testing.T) {
			l := local
			if tt.app == app2 {
				l = local2
			}
			url := "http://" + split(t, tt.app, l) + "/x"
			for _, me := range []bool{false, true} {
				want := "app " + tt.want
				args := append([]string{"-sS", "--max-time", "20", url}, tt.args...)
				if me {
					args, want = append(args, "-H", "X-User: me"), "local "+tt.want
				}
				cmd := exec.CommandContext(t.Context(), curl, args...)
				var errs strings.Builder
				cmd.Stdin, cmd.Stderr = strings.NewReader(large), &errs
				if out, err := cmd.Output(); err != nil || string(out) != want {
					t.Errorf("%q, want %q, %v: %s", out, want, err, errs.String())
				}
			}
		})
	}
}
