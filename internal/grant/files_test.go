package grant

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFile(t *testing.T) {
	e := compile(t, Grant{
		Features: &Features{Profile: "base", Files: FilesRead, FilesWritten: []string{"^/data/", "^/etc/ro/"}},
		Files: []FileRules{
			{Policy: "keys", NotFound: []string{`\.PEM$`}, ReadOnly: []string{"^/etc/ro/"}},
			{Policy: "shop/own", Local: []string{"^/tmp/"}, NotFound: []string{"^/tmp/"}, ReadOnly: []string{"^/tmp/", "^/etc/ro/all"}},
		},
	})
	const notWritten = `feature.fs.mode is read, with profile "base"`
	for _, test := range []struct {
		name  string
		write bool
		want  []string
		hides bool
	}{
		{"/srv/x", false, nil, false},
		{"/srv/x", true, []string{notWritten}, false},
		{"/data/x", true, nil, false},
		{"/data/x.pem", true, []string{"keys fs.notFound"}, true},
		{"/srv/key.pem", false, []string{"keys fs.notFound"}, true},
		{"/srv/key.pem", true, []string{notWritten, "keys fs.notFound"}, true},
		{"/etc/ro/x", false, nil, false},
		{"/etc/ro/all", true, []string{"keys fs.readOnly", "shop/own fs.readOnly"}, false},
		{"/tmp/x", false, []string{"shop/own fs.local"}, true},
	} {
		err := e.File(test.name, test.write)
		if diff := cmp.Diff(test.want, causes(t, err)); diff != "" {
			t.Errorf("%s, write %t: %s", test.name, test.write, diff)
		}
		if r, ok := errors.AsType[*Refusal](err); ok && r.Hides() != test.hides {
			t.Errorf("%s hides: %t", test.name, r.Hides())
		}
	}
	if err := e.Files(); err != nil {
		t.Error(err)
	}
	off := compile(t, Grant{Features: &Features{}})
	for _, err := range []error{off.Files(), off.File("/x", false)} {
		if diff := cmp.Diff([]string{"feature.fs.mode is local"}, causes(t, err)); diff != "" {
			t.Error(diff)
		}
	}
	all := compile(t, Grant{})
	if err := errors.Join(all.Files(), all.File("/x", true)); err != nil || all.FilesByName() {
		t.Errorf("without features and rules: %v", err)
	}
	_, err := Grant{Features: &Features{FilesWritten: []string{"("}}, Files: []FileRules{{Policy: "p", Local: []string{"["}}}}.Compile()
	if err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 2 {
		t.Errorf("broken patterns: %v", err)
	}
}
