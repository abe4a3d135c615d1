package envvars

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/internal/config"
)

func TestApply(t *testing.T) {
	local := []string{"PATH=/laptop", "HOME=/home/me", "SHARED=local", "ONLY_LOCAL=1"}
	target := []string{"PATH=/pod", "HOME=/root", "SHARED=pod", "DB_HOST=db", "DB_PASSWORD=s3cret", "JAVA_HOME=/jdk", "EMPTY=", "broken", "=x"}
	keep := []string{"HOME=/home/me", "ONLY_LOCAL=1", "PATH=/laptop"}
	tests := []struct {
		name string
		env  config.Env
		file map[string]string
		want []string
	}{
		{
			name: "defaults",
			env:  config.Env{Enabled: true},
			want: append([]string{"DB_HOST=db", "DB_PASSWORD=s3cret", "EMPTY=", "SHARED=pod"}, keep...),
		},
		{
			name: "off",
			env:  config.Env{},
			want: append([]string{"SHARED=local"}, keep...),
		},
		{
			name: "off still has file and override",
			env:  config.Env{Override: map[string]string{"A": "o"}},
			file: map[string]string{"A": "f", "B": "f"},
			want: append([]string{"A=o", "B=f", "SHARED=local"}, keep...),
		},
		{
			name: "include",
			env:  config.Env{Enabled: true, Include: []string{"DB_*"}},
			want: append([]string{"DB_HOST=db", "DB_PASSWORD=s3cret", "SHARED=local"}, keep...),
		},
		{
			name: "include as one string",
			env:  config.Env{Enabled: true, Include: []string{"DB_HOST; SHARE?"}},
			want: append([]string{"DB_HOST=db", "SHARED=pod"}, keep...),
		},
		{
			name: "include names what stays local otherwise",
			env:  config.Env{Enabled: true, Include: []string{"JAVA_*", "PATH"}},
			want: []string{"HOME=/home/me", "JAVA_HOME=/jdk", "ONLY_LOCAL=1", "PATH=/pod", "SHARED=local"},
		},
		{
			name: "include everything does not bring PATH",
			env:  config.Env{Enabled: true, Include: []string{"*"}},
			want: append([]string{"DB_HOST=db", "DB_PASSWORD=s3cret", "EMPTY=", "SHARED=pod"}, keep...),
		},
		{
			name: "exclude",
			env:  config.Env{Enabled: true, Exclude: []string{"*PASSWORD", "EMPTY"}},
			want: append([]string{"DB_HOST=db", "SHARED=pod"}, keep...),
		},
		{
			name: "remote, then file, then override",
			env:  config.Env{Enabled: true, Exclude: []string{"DB_PASSWORD", "EMPTY"}, Override: map[string]string{"DB_HOST": "override"}},
			file: map[string]string{"DB_HOST": "file", "SHARED": "file"},
			want: append([]string{"DB_HOST=override", "SHARED=file"}, keep...),
		},
		{
			name: "mapping replaces values by name, first pattern in order",
			env: config.Env{Enabled: true, Exclude: []string{"EMPTY"}, Mapping: map[string]string{
				"DB_.+": "mapped", "^DB_HOST$": "anchored", "LOCAL": "never",
			}},
			want: append([]string{"DB_HOST=mapped", "DB_PASSWORD=mapped", "SHARED=pod"}, keep...),
		},
		{
			name: "unset is last and ignores case",
			env: config.Env{
				Enabled: true, Unset: []string{"shared", "Only_Local", "SET"}, Exclude: []string{"DB_*", "EMPTY"},
				Override: map[string]string{"SET": "x"},
			},
			want: []string{"HOME=/home/me", "PATH=/laptop"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Compile(tt.env, tt.file)
			if err != nil {
				t.Fatal(err)
			}
			got := r.Apply(local, target)
			if diff := cmp.Diff(sorted(tt.want), got); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		env  config.Env
		want string
	}{
		"include and exclude": {config.Env{Include: []string{"A"}, Exclude: []string{"B"}}, "both include and exclude"},
		"mapping":             {config.Env{Mapping: map[string]string{"(": "secret"}}, "feature.env.mapping"},
		"override":            {config.Env{Override: map[string]string{"A=B": "secret"}}, "cannot be the name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(tt.env, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("Compile: %v, want an error with %q and without values", err, tt.want)
			}
		})
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true},
		{"", "A", false},
		{"*", "", true},
		{"?", "", false},
		{"A", "A", true},
		{"A", "a", false},
		{"A*", "A", true},
		{"A*", "ABC", true},
		{"*C", "ABC", true},
		{"A*C", "ABBC", true},
		{"A*C", "ABCD", false},
		{"*B*", "ABC", true},
		{"A?C", "ABC", true},
		{"A?C", "AC", false},
		{"**", "X", true},
		{"A*B*C", "AxBxBxC", true},
		{"[A]", "A", false},
		{`\*`, "*", false},
	} {
		if got := match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("match(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

func sorted(in []string) []string {
	r, _ := Compile(config.Env{}, nil)
	return r.Apply(in, nil)
}

// TestHideAWS leaves the target's identity, and what the user asks for.
func TestHideAWS(t *testing.T) {
	local := []string{"AWS_PROFILE=me", "AWS_ACCESS_KEY_ID=k", "AWS_REGION=eu-west-1"}
	hidden := []string{"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null"}
	tests := []struct {
		name   string
		env    config.Env
		target []string
		want   []string
	}{
		{"nothing there", config.Env{Enabled: true}, nil, append([]string{"AWS_REGION=eu-west-1"}, hidden...)},
		{
			"of the target",
			config.Env{Enabled: true},
			[]string{"AWS_ROLE_ARN=r", "AWS_REGION=us-east-1", "AWS_CONFIG_FILE=/etc/aws"},
			[]string{"AWS_CONFIG_FILE=/etc/aws", "AWS_REGION=us-east-1", "AWS_ROLE_ARN=r", hidden[1]},
		},
		{
			"a profile on purpose",
			config.Env{Override: map[string]string{"AWS_PROFILE": "other"}},
			nil,
			[]string{"AWS_PROFILE=other", "AWS_REGION=eu-west-1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Compile(tt.env, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.HideAWS()
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, r.Apply(local, tt.target)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestMappingLooksAround as users' patterns may.
func TestMappingLooksAround(t *testing.T) {
	r, err := Compile(config.Env{Enabled: true, Mapping: map[string]string{"^(?!DB_).*_TIMEOUT$": "9"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"DB_TIMEOUT=1", "HTTP_TIMEOUT=9"}
	if diff := cmp.Diff(want, r.Apply(nil, []string{"DB_TIMEOUT=1", "HTTP_TIMEOUT=1"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
