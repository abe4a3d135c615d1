package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestFromObject(t *testing.T) {
	for _, test := range []struct {
		object string
		ref    string
		want   []string // paths that can't be read
	}{
		{`{metadata: {name: a}, spec: {block: [steal]}}`, "a", nil},
		{`{metadata: {name: a, namespace: b}, spec: {targetPath: null}, status: {x: y}}`, "b/a", nil},
		{`{metadata: {name: a}, spec: {block: [steal], splitQueues: {}, network: {outgoing: {allow: [{host: x}]}}}}`, "a", []string{"spec.network.outgoing.allow[0].host", "spec.splitQueues"}},
		{`{metadata: {name: a}, spec: {block: steal, targetPath: pod/x}}`, "a", []string{"spec"}},
		{`{metadata: {name: a}, spec: [1]}`, "a", []string{"spec"}},
	} {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(test.object), &object); err != nil {
			t.Fatal(err)
		}
		p := FromObject(object)
		var got []string
		for _, problem := range p.Unreadable {
			got = append(got, problem.Path)
		}
		if diff := cmp.Diff(test.want, got); diff != "" || p.Ref.String() != test.ref {
			t.Errorf("%s: %s\n%s", test.object, p.Ref, diff)
		}
		// What can't be read refuses everything that it may have meant.
		target := shop(t, "deployment/web")
		target.Namespace = "b"
		d := Evaluate([]Policy{p}, Request{Target: target, Features: plain()})
		if d.Allowed() != (len(test.want) == 0) {
			t.Errorf("%s: allowed %t", test.object, d.Allowed())
		}
	}
}
