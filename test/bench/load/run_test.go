package load

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// A program that fails is told with what it said, and the client goes on with the next job.
func TestRun(t *testing.T) {
	var in, out bytes.Buffer
	jobs := json.NewEncoder(&in)
	for _, command := range [][]string{{"sh", "-c", "echo a; echo b"}, {"sh", "-c", "echo it is broken >&2; exit 3"}, nil} {
		if err := jobs.Encode(Job{Kind: Run, Command: command}); err != nil {
			t.Fatal(err)
		}
	}
	if err := Client(&in, &out); err != nil {
		t.Fatal(err)
	}
	results := json.NewDecoder(&out)
	var good, bad, none Result
	for _, r := range []*Result{&good, &bad, &none} {
		if err := results.Decode(r); err != nil {
			t.Fatal(err)
		}
	}
	if good.Error != "" || good.Count != 2 || good.Seconds <= 0 {
		t.Errorf("two lines: %+v", good)
	}
	if !strings.Contains(bad.Error, "exit status 3") || !strings.Contains(bad.Error, "it is broken") {
		t.Errorf("a failure: %+v", bad)
	}
	if none.Error == "" {
		t.Error("no program, and no error")
	}
}
