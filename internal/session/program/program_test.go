package program

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/config"
)

type fake struct {
	file, name    string
	args, environ []string
}

func (f fake) File() string      { return f.file }
func (f fake) Name() string      { return f.name }
func (f fake) Args() []string    { return f.args }
func (f fake) Environ() []string { return f.environ }

func TestSkips(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config config.Config
		p      fake
		want   bool
	}{
		{"a build tool", config.Config{SkipBuildTools: true}, fake{file: "/usr/local/go/bin/go"}, true},
		{"the program", config.Config{SkipBuildTools: true}, fake{file: "/tmp/go-build1/exe/main", name: "main"}, false},
		{"a process that calls itself like one", config.Config{SkipBuildTools: true}, fake{file: "/srv/shop", name: "go"}, false},
		{"not asked for", config.Config{}, fake{file: "/usr/bin/git"}, false},
		{"by name", config.Config{SkipProcesses: []string{"shop"}}, fake{file: "/srv/shop"}, true},
		{"a script", config.Config{SkipProcesses: []string{"npm"}}, fake{file: "/usr/bin/node", name: "npm"}, true},
		{"a long name", config.Config{SkipProcesses: []string{"my-very-long-script.sh"}}, fake{file: "/bin/sh", name: "my-very-long-sc"}, true},
		{"part of a name", config.Config{SkipProcesses: []string{"sho"}}, fake{file: "/srv/shop", name: "shop"}, false},
		{"extra", config.Config{SkipBuildTools: true, SkipExtraBuildTools: []string{"mage"}}, fake{file: "/bin/mage"}, true},
		{"extra without", config.Config{SkipExtraBuildTools: []string{"mage"}}, fake{file: "/bin/mage"}, false},
		{"unreadable", config.Config{SkipBuildTools: true, SkipProcesses: []string{""}}, fake{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := NewSkips(&tt.config).Has(tt.p); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
	if !NewSkips(&config.Config{}).Empty() {
		t.Error("not empty")
	}
}

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		line    string
		environ []string
		want    []uint16
	}{
		{"/venv/bin/python -m debugpy --listen 5678 app.py", nil, []uint16{5678}},
		{"python3.12 -Xfrozen_modules=off -m debugpy --listen=0.0.0.0:5678 --wait-for-client -m app --port 8000", nil, []uint16{5678}},
		{"/usr/bin/python3 /home/u/.vscode/extensions/debugpy --connect 127.0.0.1:57141 --configure-qt none app.py", nil, []uint16{57141}},
		{"python3 /x/debugpy/adapter --for-server 33333 --host 127.0.0.1 --port 5678 --server-access-token a", nil, []uint16{33333, 5678}},
		{"/path/to/python /path/to/pydevd.py --multiprocess --client 127.0.0.1 --port 32845 --file app.py", nil, []uint16{32845}},
		{"python3 app.py --listen 8080", nil, nil},
		{"node --inspect app.js", nil, []uint16{9229}},
		{"node --inspect-brk=9230 app.js --inspect=1", nil, []uint16{9230}},
		{"/usr/bin/node --max-old-space-size=4 --inspect=[::1]:9231 app.js", nil, []uint16{9231}},
		{"node --inspect=127.0.0.1:0 app.js", nil, []uint16{9229}},
		{"node app.js", []string{"A=b", "NODE_OPTIONS=--require x --inspect=0.0.0.0:4444"}, []uint16{4444}},
		{"node app.js --inspect", nil, nil},
		{"node --require x --inspect=1234 app.js", nil, []uint16{1234}},
		{"java -agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=*:5005 -jar a.jar", nil, []uint16{5005}},
		{"java -agentlib:jdwp=transport=dt_socket,server=n,address=localhost:54898 Main", nil, []uint16{54898}},
		{"java -Xrunjdwp:transport=dt_socket,server=y,address=8000 Main", nil, []uint16{8000}},
		{"java Main", []string{"JAVA_TOOL_OPTIONS=-agentlib:jdwp=transport=dt_socket,address=5006"}, []uint16{5006}},
		{"java -agentlib:jdwp=transport=dt_shmem,address=mem Main", nil, nil},
		{"dlv exec ./shop --headless --listen=:2345 -- --listen=:80", nil, []uint16{2345}},
		{"dlv dap -l 127.0.0.1:38697", nil, []uint16{38697}},
		{"gdbserver --once localhost:1234 ./shop", nil, []uint16{1234}},
		{"gdbserver --multi - ./shop", nil, nil},
		{"/rider/dotnet/dotnet exec /rider/JetBrains.Debugger.Worker.exe --mode=client --frontend-port=36977", nil, []uint16{36977}},
		{"./shop --inspect=9229 --listen 5678", nil, nil},
		{"", nil, nil},
	} {
		t.Run(tt.line, func(t *testing.T) {
			got := detect(strings.Fields(tt.line), func() []string { return tt.environ })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestOwns(t *testing.T) {
	for _, tt := range []struct {
		ignore, line, addr string
		want               bool
	}{
		{"45000-65535", "./shop", "127.0.0.1:50051", true},
		{"45000-65535", "./shop", "[::1]:50051", true},
		{"45000-65535", "./shop", "0.0.0.0:50051", false}, // a server of the user's
		{"45000-65535", "./shop", "127.0.0.1:8080", false},
		{"1234, 2000-2002", "./shop", "127.0.0.1:2002", true},
		{"1234", "./shop", "127.0.0.1:1234", true},
		{"45000-65535", "node --inspect=9229 a.js", "127.0.0.1:50051", false}, // the command line knows better
		{"", "node --inspect=9229 a.js", "0.0.0.0:9229", true},
		{"", "./shop", "127.0.0.1:9229", false},
	} {
		d, err := NewDebuggers(tt.ignore)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Owns(fake{args: strings.Fields(tt.line)}, netip.MustParseAddrPort(tt.addr)); got != tt.want {
			t.Errorf("%q, %q, %s: %v, want %v", tt.ignore, tt.line, tt.addr, got, tt.want)
		}
	}
	for _, bad := range []string{"x", "0", "70000", "2-1", "1-2-3", "-", "1;2"} {
		if _, err := NewDebuggers(bad); err == nil || !strings.Contains(err.Error(), IgnoreVariable) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzDetect(f *testing.F) {
	f.Add("node\x00--inspect=[::1]:9231", "NODE_OPTIONS=--inspect")
	f.Add("java\x00-agentlib:jdwp=address=:", "JAVA_TOOL_OPTIONS=")
	f.Add("python\x00-m\x00debugpy\x00--listen", "")
	f.Fuzz(func(t *testing.T, line, environ string) {
		for _, p := range detect(strings.Split(line, "\x00"), func() []string { return []string{environ} }) {
			if p == 0 {
				t.Error("port 0")
			}
		}
	})
}
