package choose

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/mirrord-go/mirrord/internal/config"
	"github.com/mirrord-go/mirrord/internal/policy"
)

func objects(t *testing.T, texts ...string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, text := range texts {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

const ok = `agentAsServer: {authentication: {certPem: /tls/CERT.crt, keyPem: /tls/tls.key}}, agentAsClient: {verification: {acceptAnyCert: true}}`

func config1(name, namespace, spec, port string) string {
	return `{metadata: {name: ` + name + `, namespace: "` + namespace + `"}, spec: {` + spec + ` ports: [{port: ` + port + `, ` + strings.ReplaceAll(ok, "CERT", name) + `}]}}`
}

func TestPorts(t *testing.T) {
	target := policy.Target{
		Path: config.TargetPath{Kind: config.Deployment, Name: "shop"}, Namespace: "team",
		Objects: []policy.Object{
			{Kind: config.Deployment, Name: "shop", Labels: map[string]string{"app": "shop"}},
			{Kind: config.Pod, Name: "shop-1", Labels: map[string]string{"app": "shop"}},
		},
	}
	tests := []struct {
		name     string
		objects  []string
		want     []string // certificates by port
		problems []string
	}{
		{"none", nil, nil, nil},
		{"of the namespace", []string{config1("a", "team", "", "443")}, []string{"443 /tls/a.crt"}, nil},
		{"of another namespace", []string{config1("a", "other", "", "443")}, nil, nil},
		{"by path", []string{config1("a", "team", `targetPath: "*/shop*",`, "443"), config1("b", "team", `targetPath: "deploy/cart",`, "444")}, []string{"443 /tls/a.crt"}, nil},
		{"by labels", []string{config1("a", "", `selector: {matchLabels: {app: shop}},`, "443"), config1("b", "", `selector: {matchLabels: {app: cart}},`, "444")}, []string{"443 /tls/a.crt"}, nil},
		{"merged", []string{config1("b", "team", "", "444"), config1("a", "team", "", "443")}, []string{"443 /tls/a.crt", "444 /tls/b.crt"}, nil},
		{
			"twice",
			[]string{config1("z", "", "", "443"), config1("b", "team", "", "443"), config1("a", "", "", "443")},
			[]string{"443 /tls/b.crt"},
			[]string{"a has port 443, which team/b has already", "z has port 443, which team/b has already"},
		},
		{"selector that can't be read", []string{config1("a", "", `selector: {matchExpressions: [{key: a, operator: Near}]},`, "443")}, nil, []string{"can't be read"}},
		{"spec that can't be read", []string{`{metadata: {name: a}, spec: {ports: 7}}`, config1("b", "", "", "443")}, []string{"443 /tls/b.crt"}, []string{"a can't be read"}},
		{"mistake", []string{`{metadata: {name: a}, spec: {ports: [{port: 443}]}}`}, nil, []string{"agentAsServer.authentication.certPem must be an absolute path"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ports, problems := Ports(objects(t, tt.objects...), target)
			var got []string
			for _, p := range ports {
				got = append(got, strings.TrimSpace(strings.Join([]string{strconv.Itoa(int(p.Port)), p.AgentAsServer.Authentication.CertPEM}, " ")))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(problems) != len(tt.problems) {
				t.Fatalf("problems: %v", problems)
			}
			for i, want := range tt.problems {
				if !strings.Contains(problems[i].Error(), want) {
					t.Errorf("problem %v, want %q", problems[i], want)
				}
			}
		})
	}
}

// FuzzPorts: of whatever is in an object, the ports that come out are in order, each once, and can be used.
func FuzzPorts(f *testing.F) {
	f.Add(config1("a", "team", "", "443"), config1("b", "", `selector: {matchLabels: {app: shop}},`, "443"))
	f.Add(config1("a", "team", `targetPath: "*/shop*",`, "65535"), `{metadata: {name: a}, spec: {ports: 7}}`)
	f.Add(`{metadata: {name: a}, spec: {ports: [{port: 443}], selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}}`, `{spec: null}`)
	f.Add(`{metadata: 1}`, `{metadata: {name: {a: 1}}, spec: []}`)
	target := policy.Target{
		Path: config.TargetPath{Kind: config.Deployment, Name: "shop"}, Namespace: "team",
		Objects: []policy.Object{{Kind: config.Deployment, Name: "shop", Labels: map[string]string{"app": "shop"}}},
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		var all []map[string]any
		for _, text := range []string{first, second} {
			var o map[string]any
			if yaml.Unmarshal([]byte(text), &o) == nil {
				all = append(all, o)
			}
		}
		ports, problems := Ports(all, target)
		for i, p := range ports {
			if err := p.Check(); err != nil || i > 0 && p.Port <= ports[i-1].Port {
				t.Errorf("port %d of %d: %v", i, len(ports), err)
			}
		}
		for _, p := range problems {
			if p.Error() == "" {
				t.Error("a problem without words")
			}
		}
	})
}
