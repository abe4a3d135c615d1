package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/mirrord-go/mirrord/internal/config"
)

func TestPageIsCurrent(t *testing.T) {
	written, err := os.ReadFile("../../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, page()) {
		t.Error(`docs/config.md is not current: run "go generate ./internal/config"`)
	}
}

func TestFieldsAreDocumented(t *testing.T) {
	for _, f := range config.Fields() {
		if !strings.HasSuffix(f.Doc, ".") {
			t.Errorf("%s: the meaning is no sentence: %q", f.Path, f.Doc)
		}
		if f.Status != config.Supported && f.Note == "" {
			t.Errorf("%s is %s and does not say why", f.Path, f.Status)
		}
	}
}
