package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTargetPath(t *testing.T) {
	tests := []struct {
		in        string
		want      TargetPath
		canonical string // when it is not in
	}{
		{in: "targetless"},
		{in: "pod/a", want: TargetPath{Kind: Pod, Name: "a"}},
		{in: "pod/a.b-c/container/web", want: TargetPath{Kind: Pod, Name: "a.b-c", Container: "web"}},
		{in: "deployment/shop", want: TargetPath{Kind: Deployment, Name: "shop"}},
		{in: "deploy/shop/container/x", want: TargetPath{Kind: Deployment, Name: "shop", Container: "x"}, canonical: "deployment/shop/container/x"},
		{in: "statefulset/s", want: TargetPath{Kind: StatefulSet, Name: "s"}},
		{in: "daemonset/s", want: TargetPath{Kind: DaemonSet, Name: "s"}},
		{in: "replicaset/s", want: TargetPath{Kind: ReplicaSet, Name: "s"}},
		{in: "job/s", want: TargetPath{Kind: Job, Name: "s"}},
		{in: "cronjob/s", want: TargetPath{Kind: CronJob, Name: "s"}},
		{in: "service/s", want: TargetPath{Kind: Service, Name: "s"}},
		{in: "rollout/s", want: TargetPath{Kind: Rollout, Name: "s"}},
		{in: "label/b=2,a=1", want: TargetPath{Kind: Label, Labels: map[string]string{"a": "1", "b": "2"}}, canonical: "label/a=1,b=2"},
		{in: "label/app.kubernetes.io/name=shop/container/c", want: TargetPath{Kind: Label, Labels: map[string]string{"app.kubernetes.io/name": "shop"}, Container: "c"}},
		{in: "label/empty=", want: TargetPath{Kind: Label, Labels: map[string]string{"empty": ""}}},
		{in: "pod/container/container/container", want: TargetPath{Kind: Pod, Name: "container", Container: "container"}},
	}
	for _, test := range tests {
		got, err := ParseTargetPath(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.in, diff)
		}
		if want := strings.TrimSpace(test.canonical + " "); want != "" && got.String() != want || want == "" && got.String() != test.in {
			t.Errorf("%s is written %s", test.in, got)
		}
	}
}

func TestParseTargetPathMistakes(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "it is empty"},
		{"shop", `did you mean "pod/shop"?`},
		{"pods/shop", `did you mean "pod/shop"?`},
		{"deployments/shop", `did you mean "deployment/shop"?`},
		{"banana/shop", "known are"},
		{"pod", "a name is missing"},
		{"pod/", "a name is missing"},
		{"pod//container/c", `"" cannot be the name of a pod`},
		{"pod/Shop", "lower-case"},
		{"pod/a/container/", "name of a container"},
		{"pod/a/container", "too much after the name"},
		{"pod/a/b", "too much after the name"},
		{"pod/a/container/b/container/c", "too much after the name"},
		{"label/", "a name is missing"},
		{"label/a", "has no ="},
		{"label/a=1,a=2", "twice"},
		{"label/a=b c", "value of a label"},
		{"label/=1", "key of a label"},
		{"targetless/x", `there is no kind "targetless"`},
		{"pod/a ", "cannot be the name"},
	}
	for _, test := range tests {
		if got, err := ParseTargetPath(test.in); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v and %v, want %q", test.in, got, err, test.want)
		}
	}
}

func TestTargetPathJSON(t *testing.T) {
	for in, want := range map[string]string{
		`"targetless"`:                             `"targetless"`,
		`"deploy/a/container/b"`:                   `"deployment/a/container/b"`,
		`{"pod": "a"}`:                             `"pod/a"`,
		`{"deployment": "a", "container": "b"}`:    `"deployment/a/container/b"`,
		`{"stateful_set": "a", "container": null}`: `"statefulset/a"`,
		`{"daemon_set": "a"}`:                      `"daemonset/a"`,
		`{"replica_set": "a"}`:                     `"replicaset/a"`,
		`{"cron_job": "a"}`:                        `"cronjob/a"`,
		`{"labels": {"a": "1"}, "container": "c"}`: `"label/a=1/container/c"`,
	} {
		var path TargetPath
		if err := json.Unmarshal([]byte(in), &path); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got, err := json.Marshal(path); err != nil || string(got) != want {
			t.Errorf("%s is written %s, %v", in, got, err)
		}
	}
	for _, in := range []string{`5`, `{}`, `"x"`, `{"pod": 1}`, `{"pod": "a", "job": "b"}`, `{"pod": "a", "labels": {"a": "b"}}`, `{"labels": {}}`, `{"labels": {"a": 1}}`, `{"container": "c"}`, `{"po": "a"}`} {
		var path TargetPath
		if err := json.Unmarshal([]byte(in), &path); err == nil {
			t.Errorf("%s: no error, but %s", in, path)
		}
	}
}

func FuzzParseTargetPath(f *testing.F) {
	for _, seed := range []string{"targetless", "pod/a", "deploy/a/container/b", "label/a=1,b=2/container/c", "x", "label/app.kubernetes.io/name=x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := ParseTargetPath(s)
		if err != nil {
			return
		}
		again, err := ParseTargetPath(path.String())
		if err != nil {
			t.Fatalf("%q gives %q, which is none: %v", s, path, err)
		}
		if diff := cmp.Diff(path, again); diff != "" {
			t.Errorf("%q gives %q, and that: %s", s, path, diff)
		}
	})
}
