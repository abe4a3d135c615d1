package clustertest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestStateFolder(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("MIRRORD_CLUSTER_CACHE", cache)
	t.Setenv("MIRRORD_CLUSTER_NAME", "")
	state, err := stateFolder()
	if err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	if name := filepath.Base(state); filepath.Dir(state) != filepath.Join(cache, "run") || !strings.HasPrefix(name, filepath.Base(root)+"-") {
		t.Errorf("state folder %s", state)
	}
	t.Setenv("MIRRORD_CLUSTER_NAME", "other")
	if state, err = stateFolder(); err != nil || state != filepath.Join(cache, "run", "other") {
		t.Errorf("state folder of a named cluster: %s, %v", state, err)
	}
}

func TestFindWithoutCluster(t *testing.T) {
	t.Setenv("MIRRORD_CLUSTER_CACHE", t.TempDir())
	foreign := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(foreign, []byte("not even a kubeconfig"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", foreign)
	if _, err := find(t.Context(), false); !errors.Is(err, errNoCluster) {
		t.Errorf("with somebody's kubeconfig: %v, want %v", err, errNoCluster)
	}
	if _, err := find(t.Context(), true); err == nil || errors.Is(err, errNoCluster) {
		t.Errorf("with somebody's kubeconfig, required: %v, want its error", err)
	}
}

func TestClusterIsUsedOnlyWhenComplete(t *testing.T) {
	state := t.TempDir()
	write := func(json string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(state, "state.json"), []byte(json), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := readCluster(state); ok || err != nil {
		t.Errorf("none: %v, %v", ok, err)
	}
	write(`{"name": "a", "ready": false}`)
	if _, ok, err := readCluster(state); ok || err != nil {
		t.Errorf("starting: %v, %v", ok, err)
	}
	write(`{"name": "a", "tool": "/t", "ready": true}`)
	if c, ok, err := readCluster(state); !ok || err != nil || c.Name != "a" || c.Tool != "/t" || c.state != state {
		t.Errorf("complete: %+v, %v, %v", c, ok, err)
	}
	write(`{`)
	if _, _, err := readCluster(state); err == nil {
		t.Error("a broken record was accepted")
	}
}

func TestOwns(t *testing.T) {
	e := &Env{own: map[types.UID]bool{"deployment": true}}
	refs := func(uid types.UID) []metav1.OwnerReference { return []metav1.OwnerReference{{UID: uid}} }
	owners := map[types.UID][]metav1.OwnerReference{"set": refs("deployment"), "stranger": refs("elsewhere"), "a": refs("b"), "b": refs("a")}
	for _, tt := range []struct {
		name string
		uid  types.UID
		refs []metav1.OwnerReference
		want bool
	}{
		{"made by the test", "deployment", nil, true},
		{"controlled by it", "set", refs("deployment"), true},
		{"through another", "pod", refs("set"), true},
		{"nobody's", "pod", nil, false},
		{"somebody else's", "pod", refs("stranger"), false},
		{"a circle", "pod", refs("a"), false},
	} {
		if got := e.owns(tt.uid, tt.refs, owners); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
