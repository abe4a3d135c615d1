package clierr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type hinted struct{ text, hint string }

func (e *hinted) Error() string { return e.text }
func (e *hinted) Hint() string  { return e.hint }

func TestReport(t *testing.T) {
	tests := []struct {
		name string
		err  error
		code int
		text string
	}{
		{"success", nil, 0, ""},
		{"plain", errors.New("it broke"), 1, "error: it broke\n"},
		{"hint", fmt.Errorf("outside: %w", &hinted{"inside", "Do this.\n  exactly"}), 1, "error: outside: inside\nDo this.\n  exactly\n"},
		{"hint without words", &hinted{"it broke", ""}, 1, "error: it broke\n"},
		{"several problems", &hinted{"one\ntwo", "Repair both."}, 1, "error: one\nerror: two\nRepair both.\n"},
		{"usage", Usagef("mirrord ls", "no such flag"), 2, "error: no such flag\nSee \"mirrord ls --help\".\n"},
		{"wrapped usage", fmt.Errorf("x: %w", Usagef("mirrord", "y")), 2, "error: x: y\nSee \"mirrord --help\".\n"},
		{"child", fmt.Errorf("the child: %w", &ExitError{Code: 7}), 7, ""},
		{"child's success", &ExitError{Code: 0}, 0, ""},
		{"interrupted", fmt.Errorf("listing: %w", context.Canceled), 130, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := Report(&out, test.err); code != test.code {
				t.Errorf("code = %d, want %d", code, test.code)
			}
			if diff := cmp.Diff(test.text, out.String()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	got := Messages(&hinted{"one\ntwo", "Repair both."})
	if diff := cmp.Diff([]string{"one", "two\nRepair both."}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}
