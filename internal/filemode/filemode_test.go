package filemode

import (
	"testing"
)

func TestDecide(t *testing.T) {
	laptop := Laptop{Home: "/home/dev", Dir: "/data/shop", Program: "/srv/tools/bin", Local: []string{"/cache/go"}}
	const (
		read  = Read
		write = Write
	)
	tests := []struct {
		name   string
		fs     Settings
		laptop Laptop
		policy []Policy
		path   string
		write  bool
		want   Place
		at     string // when the mapping changed it
	}{
		{name: "read", fs: Settings{Mode: read}, path: "/app/config.yaml", want: ReadOnly},
		{name: "read, for writing", fs: Settings{Mode: read}, path: "/app/config.yaml", write: true, want: Local},
		{name: "write", fs: Settings{Mode: write}, path: "/app/config.yaml", write: true, want: ReadWrite},
		{name: "local", fs: Settings{Mode: Off, ReadOnly: []string{"/app"}}, path: "/app/x", want: Local},
		{name: "zero", path: "/app/x", want: Local},
		{name: "overrides: the rest", fs: Settings{Mode: Overrides}, path: "/app/x", want: Local},
		{name: "overrides: the host name", fs: Settings{Mode: Overrides}, path: "/etc/hostname", want: ReadOnly},
		{name: "overrides: names", fs: Settings{Mode: Overrides}, path: "/etc/hosts", want: Local},
		{name: "name servers", fs: Settings{Mode: Write}, path: "/etc/resolv.conf", want: Local},
		{name: "name servers, asked for", fs: Settings{Mode: Read, ReadOnly: []string{"^/etc/resolv.conf$"}}, path: "/etc/resolv.conf", want: ReadOnly},
		{name: "overrides: certificates", fs: Settings{Mode: Overrides}, path: "/etc/ssl/certs/ca.pem", want: ReadOnly},
		{name: "overrides: list", fs: Settings{Mode: Overrides, ReadWrite: []string{"^/app/"}}, path: "/app/x", write: true, want: ReadWrite},
		{name: "read_write before read_only", fs: Settings{Mode: read, ReadWrite: []string{"/a"}, ReadOnly: []string{"/a"}}, path: "/a", write: true, want: ReadWrite},
		{name: "read_only before local", fs: Settings{Mode: read, ReadOnly: []string{"/usr/x"}, Local: []string{"/usr"}}, path: "/usr/x", want: ReadOnly},
		{name: "local before not_found", fs: Settings{Mode: read, Local: []string{"/a"}, NotFound: []string{"/a"}}, path: "/a", want: Local},
		{name: "not_found", fs: Settings{Mode: read, NotFound: []string{`\.ENV$`}}, path: "/data/shop/.env", want: NotFound},
		{name: "not_found, for writing", fs: Settings{Mode: read, NotFound: []string{`\.env$`}}, path: "/data/shop/.env", write: true, want: NotFound},
		{name: "a list before those built in", fs: Settings{Mode: read, ReadOnly: []string{"^/tmp/shared"}}, path: "/tmp/shared/x", want: ReadOnly},
		{name: "mapping first", fs: Settings{Mode: read, Mapping: map[string]string{"^/data/shop/etc/(.*)": "/etc/shop/$1"}, ReadOnly: []string{"^/etc/shop"}}, path: "/data/shop/etc/a", want: ReadOnly, at: "/etc/shop/a"},
		{name: "mapping to the laptop", fs: Settings{Mode: read, Mapping: map[string]string{"^/app": "/data/shop"}}, path: "/app/a", want: Local, at: "/data/shop/a"},
		{name: "not clean", fs: Settings{Mode: read}, path: "/app/../etc//./hostname", want: ReadOnly, at: "/etc/hostname"},
		{name: "not absolute", fs: Settings{Mode: write}, path: "x", want: Local},

		{name: "home", fs: Settings{Mode: write}, path: "/home/dev/src/x", want: Local},
		{name: "another's home", fs: Settings{Mode: read}, path: "/home/other/x", want: ReadOnly},
		{name: "above home", fs: Settings{Mode: read}, path: "/home", want: Local},
		{name: "credentials", fs: Settings{Mode: read}, path: "/home/dev/.aws/credentials", want: NotFound},
		{name: "no credentials", fs: Settings{Mode: read}, path: "/home/dev/.awsome", want: Local},
		{name: "credentials, of a home that is not clean", fs: Settings{Mode: read}, laptop: Laptop{Home: "/home//dev/", Dir: "/x"}, path: "/home/dev/.aws/credentials", want: NotFound},
		{name: "working directory", fs: Settings{Mode: write}, path: "/data/shop/a", write: true, want: Local},
		{name: "above it", fs: Settings{Mode: read}, path: "/data", want: Local},
		{name: "beside it", fs: Settings{Mode: read}, path: "/data/shopping", want: ReadOnly},
		{name: "program", fs: Settings{Mode: read}, path: "/srv/tools/bin/x", want: Local},
		{name: "cache", fs: Settings{Mode: read}, path: "/cache/go/mod", want: Local},
		{name: "system", fs: Settings{Mode: write}, path: "/usr/lib/x", want: Local},
		{name: "proc", fs: Settings{Mode: write}, path: "/proc/self/maps", want: Local},
		{name: "temporary", fs: Settings{Mode: write}, path: "/var/tmp/x", write: true, want: Local},
		{name: "var", fs: Settings{Mode: read}, path: "/var/lib/x", want: ReadOnly},
		{name: "run", fs: Settings{Mode: read}, path: "/var/run/docker.sock", want: Local},
		{name: "secrets", fs: Settings{Mode: read}, path: "/var/run/secrets/kubernetes.io/serviceaccount/token", want: ReadOnly},
		{name: "users", fs: Settings{Mode: read}, path: "/etc/passwd", want: Local},
		{name: "loader", fs: Settings{Mode: read}, path: "/etc/ld.so.cache", want: Local},
		{name: "etc", fs: Settings{Mode: read}, path: "/etc/shop/shop.conf", want: ReadOnly},
		{name: "a library", fs: Settings{Mode: read}, path: "/app/lib/libx.so.1.2", want: Local},
		{name: "no library", fs: Settings{Mode: read}, path: "/app/x.sock", want: ReadOnly},
		{name: "root", fs: Settings{Mode: read}, path: "/", want: ReadOnly},

		{name: "policy: local", fs: Settings{Mode: write}, policy: []Policy{{Local: []string{"^/app/"}, NotFound: []string{"^/app/"}}}, path: "/app/x", want: Local},
		{name: "policy: not found", fs: Settings{Mode: write}, policy: []Policy{{NotFound: []string{"SECRET"}, ReadOnly: []string{"."}}}, path: "/app/secret", want: NotFound},
		{name: "policy: read only", fs: Settings{Mode: write}, policy: []Policy{{ReadOnly: []string{"."}}}, path: "/app/x", want: ReadOnly},
		{name: "policy: read only, for writing", fs: Settings{Mode: write}, policy: []Policy{{}, {ReadOnly: []string{"."}}}, path: "/app/x", write: true, want: Local},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.laptop.Dir == "" {
				tt.laptop = laptop
			}
			r, err := Compile(tt.fs, tt.policy, tt.laptop)
			if err != nil {
				t.Fatal(err)
			}
			if tt.at == "" {
				tt.at = tt.path
			}
			if got, at := r.Decide(tt.path, tt.write); got != tt.want || at != tt.at {
				t.Errorf("%v at %s, want %v at %s", got, at, tt.want, tt.at)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, fs := range []Settings{{ReadWrite: []string{"("}}, {Mapping: map[string]string{"(": "x"}}} {
		if _, err := Compile(fs, nil, Laptop{}); err == nil {
			t.Errorf("%+v was compiled", fs)
		}
	}
	if _, err := Compile(Settings{}, []Policy{{Local: []string{"("}}}, Laptop{}); err == nil {
		t.Error("a policy's rule was compiled")
	}
}

func FuzzDecide(f *testing.F) {
	f.Add("/etc/../app//x", true)
	f.Add("/", false)
	r, err := Compile(Settings{Mode: Write, Mapping: map[string]string{"^/app/(.*)$": "/srv/$1"}}, nil, Laptop{Home: "/home/dev"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string, write bool) {
		place, at := r.Decide(name, write)
		if place < Local || place > NotFound || place.Remote() && (at == "" || at[0] != '/') || write && place == ReadOnly {
			t.Errorf("%q is %v at %q", name, place, at)
		}
	})
}

// TestWith: policies that become known later count, and leave the rules that they were added to alone.
func TestWith(t *testing.T) {
	base, err := Compile(Settings{Mode: Write}, nil, Laptop{})
	if err != nil {
		t.Fatal(err)
	}
	with, err := base.With([]Policy{{Local: []string{"^/APP/"}}, {NotFound: []string{"secret"}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Place{"/app/x": Local, "/srv/secret": NotFound, "/srv/x": ReadWrite} {
		if got, _ := with.Decide(path, true); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		if got, _ := base.Decide(path, true); got != ReadWrite {
			t.Errorf("%s without policies: %s", path, got)
		}
	}
	if _, err := base.With([]Policy{{ReadOnly: []string{"("}}}); err == nil {
		t.Error("a rule that is no expression is accepted")
	}
}
