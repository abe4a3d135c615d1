package layout_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/test/cluster/internal/layout"
)

func TestFind(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(layout.EnvCache, cache)
	t.Setenv(layout.EnvName, "")
	want, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, wd := range []string{".", filepath.Join("..", ".."), filepath.Join("..", "..", "..", "..")} {
		t.Run(wd, func(t *testing.T) {
			t.Chdir(wd)
			l, err := layout.Find()
			if err != nil {
				t.Fatal(err)
			}
			if l.Source != want || l.Cache != cache || l.Name != layout.NameFor(filepath.Dir(filepath.Dir(want))) {
				t.Errorf("%+v", l)
			}
		})
	}
	t.Run("outside", func(t *testing.T) {
		t.Chdir(t.TempDir())
		if l, err := layout.Find(); err == nil {
			t.Errorf("%+v", l)
		}
	})
}

func TestFindRefuses(t *testing.T) {
	for _, tt := range []struct{ name, key, value string }{
		{"a folder that the node hides", layout.EnvCache, "/var/lib/somewhere"},
		{"a name that is a path", layout.EnvName, "a/b"},
		{"a name that is the parent", layout.EnvName, ".."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(layout.EnvCache, t.TempDir())
			t.Setenv(tt.key, tt.value)
			if _, err := layout.Find(); err == nil || !strings.Contains(err.Error(), tt.value) {
				t.Errorf("%s=%s: %v", tt.key, tt.value, err)
			}
		})
	}
}

func TestRangesDoNotOverlap(t *testing.T) {
	var all []netip.Prefix
	for slot := range layout.Slots {
		r := layout.Ranges{Slot: slot, IPv6: true}
		for _, p := range all {
			if p.Overlaps(r.Net()) || p.Overlaps(r.Net6()) {
				t.Errorf("slot %d overlaps %v", slot, p)
			}
		}
		all = append(all, r.Net(), r.Net6())
		within := []netip.Prefix{r.Machine().Masked(), r.Services(), r.Pods()}
		within6 := []netip.Prefix{r.Machine6().Masked(), r.Services6(), r.Pods6()}
		for i, list := range [][]netip.Prefix{within, within6} {
			outer := []netip.Prefix{r.Net(), r.Net6()}[i]
			for j, p := range list {
				if !outer.Contains(p.Addr()) || p != p.Masked() {
					t.Errorf("slot %d: %v is not a range of %v", slot, p, outer)
				}
				for _, q := range list[:j] {
					if p.Overlaps(q) {
						t.Errorf("slot %d: %v overlaps %v", slot, p, q)
					}
				}
			}
		}
		if r.Node().Masked() != r.Machine().Masked() || r.Node6().Masked() != r.Machine6().Masked() {
			t.Errorf("slot %d: node and machine are not in one network", slot)
		}
		if !r.Services().Contains(r.DNS()) || !r.Services().Contains(r.Kubernetes()) {
			t.Errorf("slot %d: DNS or API server outside the services", slot)
		}
		if len(r.Link()) > 15 {
			t.Errorf("link name %q is longer than the kernel allows", r.Link())
		}
	}
}

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	if _, ok, err := layout.ReadRecord(dir); ok || err != nil {
		t.Errorf("none: %v, %v", ok, err)
	}
	want := layout.Record{Name: "a", Slot: 3, IPv6: true, Ready: true, PID: 7, Started: 8, Kubeconfig: "/k"}
	if err := layout.WriteRecord(dir, want); err != nil {
		t.Fatal(err)
	}
	got, ok, err := layout.ReadRecord(dir)
	if !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := layout.ReadRecord(dir); err == nil {
		t.Error("a broken record was accepted")
	}
}
