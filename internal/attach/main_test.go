package attach

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mirrord-go/mirrord/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// next waits for an update whose pods are those named, and returns it with all notices on the
// way to it.
func next(t *testing.T, a session.Attachments, pods ...string) (session.Update, []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var said []string
	for {
		u, err := a.Next(ctx)
		if err != nil {
			t.Fatalf("waiting for the pods %v: %v", pods, err)
		}
		for _, n := range u.Notices {
			said = append(said, n.Text)
		}
		var names []string
		for _, a := range u.Attachments {
			names = append(names, a.Pod)
		}
		if slices.Equal(names, pods) {
			return u, said
		}
	}
}

// over waits for the end of a session.
func over(t *testing.T, a session.Attachments, says string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, err := a.Next(ctx); err != nil {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("the session is over: %v, want %q", err, says)
			}
			return
		}
	}
}
