package kube

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestRedirectLogs(t *testing.T) {
	var out bytes.Buffer
	RedirectLogs(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(klog.ClearLogger)
	log := klog.LoggerWithValues(klog.Background(), "feature", "CBOR")
	log.V(1).Info("a detail")
	log.Info("an information")
	klog.Warning("a warning")
	if text := out.String(); strings.Contains(text, "detail") || !strings.Contains(text, "an information") || !strings.Contains(text, "a warning") {
		t.Errorf("log:\n%s", text)
	}
}
