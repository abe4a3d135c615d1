package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/test/clustertest"
)

// colored is a pod with variables of several kinds: given, from a ConfigMap, empty, and some
// whose values only fit where they are.
const colored = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {FROM_MAP: "a value = with, signs", TOKEN_URL: "https://tokens.svc/v1"}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: ` + clustertest.WorkloadImage + `
    imagePullPolicy: Never
    args: [serve]
    env:
    - {name: COLOR_WALL, value: green}
    - {name: COLOR_DOOR, value: "red\nand blue"}
    - {name: NOTHING, value: ""}
    - {name: PATH, value: /pod/bin}
    - {name: HOME, value: /pod/home}
    - {name: SHARED, value: pod}
    - {name: AWS_ROLE_ARN, value: "arn:aws:iam::1:role/shop"}
    envFrom: [{configMapRef: {name: settings}}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}
`

// TestEnvironment: a real child has the target's variables, as feature.env says.
func TestEnvironment(t *testing.T) {
	s := newStage(t)
	s.deploy(t, colored, "pod/web")
	file := filepath.Join(t.TempDir(), "extra.env")
	if err := os.WriteFile(file, []byte("# comment\nCOLOR_WALL=white\nONLY_FILE='in the file'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	machines := []string{"SHARED=machine", "ONLY_MACHINE=here"}
	atAWS := []string{"AWS_PROFILE=me", "AWS_ACCESS_KEY_ID=mine"}
	const role = "arn:aws:iam::1:role/shop"

	// What the tests look at: "" is a variable without a value, "-" one that is not there.
	pod := map[string]string{
		"COLOR_WALL": "green", "COLOR_DOOR": "red\nand blue", "NOTHING": "", "SHARED": "pod", "ONLY_MACHINE": "here",
		"FROM_MAP": "a value = with, signs", "TOKEN_URL": "https://tokens.svc/v1", "ONLY_FILE": "-", "NEW": "-",
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"), "KUBERNETES_SERVICE_PORT": "443",
	}
	machine := map[string]string{
		"COLOR_WALL": "-", "COLOR_DOOR": "-", "NOTHING": "-", "SHARED": "machine", "ONLY_MACHINE": "here",
		"FROM_MAP": "-", "TOKEN_URL": "-", "ONLY_FILE": "-", "NEW": "-",
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"), "KUBERNETES_SERVICE_PORT": "-",
	}
	but := func(m map[string]string, changes ...string) map[string]string {
		m = maps.Clone(m)
		for i := 0; i < len(changes); i += 2 {
			m[changes[i]] = changes[i+1]
		}
		return m
	}
	for _, tt := range []struct {
		name string
		env  any // feature.env
		aws  any // feature.magic.aws
		run  run
		want map[string]string
	}{
		{name: "by default", want: pod},
		{name: "true", env: true, want: pod},
		{name: "false", env: false, want: machine},
		{name: "include", env: object{"include": "COLOR_*;SHARED"}, want: but(machine, "COLOR_WALL", "green", "COLOR_DOOR", "red\nand blue", "SHARED", "pod")},
		{name: "include what is left out by default", env: object{"include": []string{"PATH", "COLOR_?ALL"}}, want: but(machine, "PATH", "/pod/bin", "COLOR_WALL", "green")},
		{name: "exclude", env: object{"exclude": []string{"COLOR_*", "KUBERNETES_*"}}, want: but(pod, "COLOR_WALL", "-", "COLOR_DOOR", "-", "KUBERNETES_SERVICE_PORT", "-")},
		{name: "override", env: object{"override": object{"COLOR_WALL": "yellow", "NEW": "new"}}, want: but(pod, "COLOR_WALL", "yellow", "NEW", "new")},
		{name: "unset", env: object{"unset": []string{"color_wall", "Only_Machine"}}, want: but(pod, "COLOR_WALL", "-", "ONLY_MACHINE", "-")},
		{name: "file", env: object{"env_file": file}, want: but(pod, "COLOR_WALL", "white", "ONLY_FILE", "in the file")},
		{
			name: "override over file over target", env: object{"env_file": file, "override": object{"ONLY_FILE": "overridden"}},
			want: but(pod, "COLOR_WALL", "white", "ONLY_FILE", "overridden"),
		},
		{
			name: "mapping", env: object{"mapping": object{"COLOR_.+": "grey", "^TOKEN_URL$": "http://localhost"}},
			want: but(pod, "COLOR_WALL", "grey", "COLOR_DOOR", "grey", "TOKEN_URL", "http://localhost"),
		},
		{name: "flag", run: run{flags: []string{"-x", "FROM_MAP"}}, want: but(machine, "FROM_MAP", "a value = with, signs")},
		{name: "variable", run: run{env: []string{"MIRRORD_OVERRIDE_ENV_VARS_EXCLUDE=FROM_MAP"}}, want: but(pod, "FROM_MAP", "-")},
		{name: "the laptop's user at AWS, by default", run: run{env: atAWS}, want: but(pod, "AWS_ROLE_ARN", role, "AWS_PROFILE", "-", "AWS_ACCESS_KEY_ID", "-")},
		{name: "the laptop's user at AWS, hidden", aws: true, env: false, run: run{env: atAWS}, want: but(machine, "AWS_ROLE_ARN", "-", "AWS_PROFILE", "-", "AWS_ACCESS_KEY_ID", "-")},
		{name: "the laptop's user at AWS, shown", aws: false, run: run{env: atAWS}, want: but(pod, "AWS_ROLE_ARN", role, "AWS_PROFILE", "me", "AWS_ACCESS_KEY_ID", "mine")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.run.env = slices.Concat(tt.run.env, machines)
			feature := object{}
			if tt.env != nil {
				feature["env"] = tt.env
			}
			if tt.aws != nil {
				feature["magic"] = object{"aws": tt.aws}
			}
			tt.run.config = object{"target": s.webTarget(), "feature": feature}
			tt.run.command = []string{"env", "-0"}
			se := s.start(t, tt.run)
			if code := se.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			has := map[string]string{}
			for kv := range strings.SplitSeq(se.out.String(), "\x00") {
				name, value, _ := strings.Cut(kv, "=")
				has[name] = value
			}
			got := map[string]string{}
			for name := range tt.want {
				value, ok := has[name]
				if !ok {
					value = "-"
				}
				got[name] = value
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("the environment (-want +got):\n%s", diff)
			}
		})
	}
}
