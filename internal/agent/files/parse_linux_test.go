package files

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const status = `Name:	app
Uid:	1000	1000	1000	1001
Gid:	2000	2000	2000	2001
NSpid:	4711	12	1
Groups:	5 3
CapEff:	00000000a80425fb
`

func TestParseStatus(t *testing.T) {
	got, err := parseStatus([]byte(status))
	want := identity{uid: 1001, gid: 2001, groups: []int{3, 5}, caps: 0xa80425fb, pid: 1}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(identity{})); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, line := range strings.SplitAfter(strings.TrimSuffix(status, "\n"), "\n")[1:] {
		if name, _, _ := strings.Cut(line, ":"); name == "Groups" {
			continue
		}
		if _, err := parseStatus([]byte(strings.Replace(status, line, "", 1))); err == nil {
			t.Errorf("without %q it can be understood", line)
		}
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := parseStatus(own); err != nil || id.uid != os.Geteuid() || id.gid != os.Getegid() {
		t.Errorf("the test's own: %+v, %v", id, err)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(status))
	f.Add([]byte("Uid:\t4294967295 1 1 4294967295\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseStatus(b)
		if err == nil && (id.uid < 0 || id.gid < 0 || id.pid <= 0 || slices.Min(append(id.groups, 0)) < 0) {
			t.Errorf("%+v", id)
		}
	})
}

func FuzzDirents(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 24, 0, 8, 'a', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := parseDirents(b)
		if err == nil && len(entries) > len(b)/19 {
			t.Errorf("%d entries in %d bytes", len(entries), len(b))
		}
	})
}

// TestNames of ConfigMaps and Secrets.
func TestNames(t *testing.T) {
	for name, want := range map[string]string{
		"/a/b": "/a/b", "/c/..data/k": "/c/k", "/c/..2026_11_22_01_02_03.4/d/k": "/c/d/k", "/..": "/", "/a...b/c": "/a...b/c",
	} {
		if got := withoutVersions(name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
}

// FuzzInside: a real name is always clean and absolute.
func FuzzInside(f *testing.F) {
	f.Add("/srv/root", "/srv/root/etc/x")
	f.Fuzz(func(t *testing.T, prefix, where string) {
		r := &Root{prefix: strings.TrimSuffix(path.Clean("/"+prefix), "/"), id: identity{pid: 1}}
		if got := r.inside(where); got != path.Clean(got) || !strings.HasPrefix(got, "/") {
			t.Errorf("%q", got)
		}
		_ = withoutVersions(r.ofTarget(where, true))
	})
}
