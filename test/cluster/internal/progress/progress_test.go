package progress_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/test/cluster/internal/progress"
)

func TestStep(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"succeeds", nil, "    0.0s  building…\n   30.0s    still building (30s)\n   60.0s    still building (1m0s)\n   70.0s    done in 1m10s\n"},
		{"fails", broken, "    0.0s  building…\n   30.0s    still building (30s)\n   60.0s    still building (1m0s)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				err := progress.New(&out).Step("building", func() error {
					time.Sleep(70 * time.Second)
					return tt.err
				})
				if !errors.Is(err, tt.err) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if diff := cmp.Diff(tt.want, out.String()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}
