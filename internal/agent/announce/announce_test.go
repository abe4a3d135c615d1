package announce

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: what is taken for an announcement can be used, and is the same when it is written again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"mirrordAgent":1,"address":"127.0.0.1:1","key":"sha256:0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20","version":"v1"}`))
	f.Add([]byte(`{"mirrordAgent":1,"error":"no"}`))
	f.Add([]byte(`{"mirrordAgent":1,"address":"a","key":"sha256:01"}`))
	f.Add([]byte(`{"mirrordAgent":2,"error":"no"}`))
	f.Add([]byte(`listening`))
	f.Fuzz(func(t *testing.T, line []byte) {
		a, ok := Parse(line)
		if !ok {
			return
		}
		if a.Error == "" && (a.Address == "" || a.Key == nil) {
			t.Errorf("%+v can't be used", a)
		}
		var b bytes.Buffer
		if err := Write(&b, a); err != nil {
			t.Fatal(err)
		}
		again, ok := Parse(b.Bytes())
		if diff := cmp.Diff(a, again); !ok || diff != "" {
			t.Errorf("%v (-first +again):\n%s", ok, diff)
		}
	})
}
