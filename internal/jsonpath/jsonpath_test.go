package jsonpath

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// store is the example of RFC 9535, section 1.5.
const store = `{"store":{"book":[
{"category":"reference","author":"Nigel Rees","title":"Sayings of the Century","price":8.95},
{"category":"fiction","author":"Evelyn Waugh","title":"Sword of Honour","price":12.99},
{"category":"fiction","author":"Herman Melville","title":"Moby Dick","isbn":"0-553-21311-3","price":8.99},
{"category":"fiction","author":"J. R. R. Tolkien","title":"The Lord of the Rings","isbn":"0-395-19395-8","price":22.99}],
"bicycle":{"color":"red","price":399}}}`

const filters = `{"a":[3,5,1,2,4,6,{"b":"j"},{"b":"k"},{"b":{}},{"b":"kilo"}],"o":{"p":1,"q":2,"r":3,"s":5,"t":{"u":6}},"e":"f"}`

const absent = `{"obj":{"x":"y"},"arr":[2,3]}`

func TestSelect(t *testing.T) {
	for _, tt := range []struct{ doc, query, want string }{
		// Section 1.5.
		{store, `$.store.book[*].author`, `["Nigel Rees","Evelyn Waugh","Herman Melville","J. R. R. Tolkien"]`},
		{store, `$..author`, `["Nigel Rees","Evelyn Waugh","Herman Melville","J. R. R. Tolkien"]`},
		{store, `$.store..price`, `[399,8.95,12.99,8.99,22.99]`},
		{store, `$..book[2].author`, `["Herman Melville"]`},
		{store, `$..book[2].publisher`, `[]`},
		{store, `$..book[-1].title`, `["The Lord of the Rings"]`},
		{store, `$..book[0,1].price`, `[8.95,12.99]`},
		{store, `$..book[:2].price`, `[8.95,12.99]`},
		{store, `$..book[?@.isbn].price`, `[8.99,22.99]`},
		{store, `$..book[?@.price<10].title`, `["Sayings of the Century","Moby Dick"]`},
		// Section 2.3.
		{`{"o":{"j j":{"k.k":3}},"'":{"@":2}}`, `$.o['j j']["k.k"]`, `[3]`},
		{`{"o":{"j j":{"k.k":3}},"'":{"@":2}}`, `$["'"]["@"]`, `[2]`},
		{`{"'":1,"\"":2,"☺":3}`, `$['\'','"',"\u263a",'☺']`, `[1,2,3,3]`},
		{`{"☺":3}`, `$.☺`, `[3]`},
		{`{"a":1}`, "$ \n['a' ]", `[1]`},
		{`["a","b","c","d","e","f","g"]`, `$[1:3]`, `["b","c"]`},
		{`["a","b","c","d","e","f","g"]`, `$[5:]`, `["f","g"]`},
		{`["a","b","c","d","e","f","g"]`, `$[1:5:2]`, `["b","d"]`},
		{`["a","b","c","d","e","f","g"]`, `$[5:1:-2]`, `["f","d"]`},
		{`["a","b","c","d","e","f","g"]`, `$[::-1]`, `["g","f","e","d","c","b","a"]`},
		{`["a","b"]`, `$[::0]`, `[]`},
		{`["a","b"]`, `$[-9:9]`, `["a","b"]`},
		{`[1,2]`, `$[0,0]`, `[1,1]`},
		{`[[1,[2]],3]`, `$..*`, `[[1,[2]],3,1,[2],2]`},
		// Section 2.3.5.
		{filters, `$.a[?@.b == 'kilo']`, `[{"b":"kilo"}]`},
		{filters, `$.a[?(@.b == 'kilo')]`, `[{"b":"kilo"}]`},
		{filters, `$.a[?@>3.5]`, `[5,4,6]`},
		{filters, `$.a[?@.b]`, `[{"b":"j"},{"b":"k"},{"b":{}},{"b":"kilo"}]`},
		{filters, `$[?@.*]`, `[[3,5,1,2,4,6,{"b":"j"},{"b":"k"},{"b":{}},{"b":"kilo"}],{"p":1,"q":2,"r":3,"s":5,"t":{"u":6}}]`},
		{filters, `$[?@[?@.b]].x`, `[]`},
		{filters, `$.o[?@<3, ?@<3]`, `[1,2,1,2]`},
		{filters, `$.a[?@<2 || @.b == "k"]`, `[1,{"b":"k"}]`},
		{filters, `$.a[?match(@.b, "[jk]")]`, `[{"b":"j"},{"b":"k"}]`},
		{filters, `$.a[?search(@.b, "[jk]")]`, `[{"b":"j"},{"b":"k"},{"b":"kilo"}]`},
		{filters, `$.o[?@>1 && @<4]`, `[2,3]`},
		{filters, `$.o[?@.u || @.x]`, `[{"u":6}]`},
		{filters, `$.a[?@.b == $.x]`, `[3,5,1,2,4,6]`},
		{filters, `$.a[?@ == @].b`, `["j","k",{},"kilo"]`},
		{filters, `$.a[?!@.b && @ > 4]`, `[5,6]`},
		{filters, `$.a[?!(@.b == 'k') && @.b]`, `[{"b":"j"},{"b":{}},{"b":"kilo"}]`},
		{absent, `$[?$.absent1 == $.absent2].x`, `["y"]`},
		{absent, `$[?$.absent == 'g']`, `[]`},
		{absent, `$[?$.obj != $.arr].x`, `["y"]`},
		{absent, `$[?$.obj == $.obj].x`, `["y"]`},
		{absent, `$[?$.arr <= $.arr].x`, `["y"]`},
		{absent, `$[?$.arr < $.arr]`, `[]`},
		{absent, `$[?1 <= $.arr]`, `[]`},
		{absent, `$[?true <= true].x`, `["y"]`},
		{absent, `$[?'a' < 'b'].x`, `["y"]`},
		{`[1,1.0,1e0,2]`, `$[?@ == 1]`, `[1,1.0,1e0]`},
		{`[null,{"a":null}]`, `$[?@.a == null]`, `[{"a":null}]`},
		// Functions.
		{`["ab","☺☺","abc",[1,2],{"a":1,"b":2},2]`, `$[?length(@) == 2]`, `["ab","☺☺",[1,2],{"a":1,"b":2}]`},
		{`[[1,2],[1],{"a":[1,2]}]`, `$[?count(@..*) > 1]`, `[[1,2],{"a":[1,2]}]`},
		{`[{"a":{"c":1}},{"c":1},{"x":{"c":1},"c":1}]`, `$[?value(@..c) == 1]`, `[{"a":{"c":1}},{"c":1}]`},
		{`[{"p":"a.c","t":"abc"},{"p":"(","t":"("},{"p":1,"t":"1"}]`, `$[?match(@.t, @.p)].t`, `["abc"]`},
		{`["1",1,true,null,[],{}]`, `$[?typeof(@) == 'string' || typeof(@)=="null" || typeof(@) == 'boolean']`, `["1",true,null]`},
		{`["1",1,true,null,[],{}]`, `$[?typeof(@) == 'number' || typeof(@)=="array" || typeof(@) == 'object']`, `[1,[],{}]`},
		{`[1]`, `$[?typeof(@.x) == 'null']`, `[]`},
	} {
		p, err := Parse(tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		doc, err := Decode([]byte(tt.doc))
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := p.Select(doc)
		if nodes == nil {
			nodes = []any{}
		}
		if got, _ := json.Marshal(nodes); string(got) != tt.want || err != nil {
			t.Errorf("%s: %s, %v, want %s", tt.query, got, err, tt.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, q := range []string{
		"", "a", "@.a", " $", "$ ", "$.", "$..", "$.a.", "$. a", "$.1a", "$.a b", "$[", "$[]", "$[a]", "$['a'", "$['a]", `$["\'"]`, `$['\"']`,
		`$['\x']`, "$['\n']", "$[01]", "$[-0]", "$[1.0]", "$[9007199254740992]", "$[1:2:3:4]", "$[0,]", "$[,0]",
		"$[?]", "$[?@.a ==]", "$[?1]", "$[?true]", "$[?@.a == @.*]", "$[?@..a == 1]", "$[?!@.a == 1]", "$[?(@.a]", "$[?@.a = 1]",
		"$[?@.a == 01]", "$[?@.a === 1]", "$[?@.a == 'x' &&]", "$[?nosuch(@)]", "$[?length(@.*) == 1]", "$[?length(@)]",
		"$[?count(1) == 1]", "$[?count(@.a, 1) == 1]", "$[?match(@.a)]", "$[?match(@.a, 'x') == true]", "$[?match(@.a, '(')]", "$[?match(@.a, 1)]",
		"$[?" + strings.Repeat("(", 100) + "@.a" + strings.Repeat(")", 100) + "]",
		"$[?" + strings.Repeat("length(", 100) + "@.a" + strings.Repeat(")", 100) + "==1]",
		"$" + strings.Repeat(".a", MaxLength),
	} {
		var bad *SyntaxError
		if _, err := Parse(q); !errors.As(err, &bad) {
			t.Errorf("%.40q: %v", q, err)
		}
	}
	for _, text := range []string{"", "{", "1 2", "{}x"} {
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// TestTooMuch: what would take for ever is given up.
func TestTooMuch(t *testing.T) {
	deep, err := Decode([]byte(strings.Repeat("[0,", 5000) + "0" + strings.Repeat("]", 5000)))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{`$..*..*..*..*`, `$..[?count(@..*) > 0]`, `$..[?@..[?@..*]]`, `$..[?@ == $]`} {
		p, err := Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := p.Select(deep); !errors.Is(err, ErrTooMuch) || time.Since(start) > 10*time.Second {
			t.Errorf("%s: %v after %v", q, err, time.Since(start))
		}
	}
}

// TestPatternsAreBounded: a pattern becomes much more than it says, and a document may have thousands.
func TestPatternsAreBounded(t *testing.T) {
	big := strings.Repeat("x{999}", 9)
	if _, err := Parse(`$[?search(@.a, '` + big + `')]`); err == nil {
		t.Error("it is a pattern")
	}
	elements := strings.Repeat(`{"a":"y","b":"`+big+`"},`, 900) + strings.Repeat(`{"a":"y","b":"(x?){900}y"},`, 900) + `{"a":"y","b":"y"}`
	doc, err := Decode([]byte("[" + elements + "]"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(`$[?search(@.a, @.b)].a`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Select(doc); !errors.Is(err, ErrTooMuch) {
		t.Errorf("%d values, %v", len(got), err)
	}
	long, err := Decode([]byte(`["` + strings.Repeat("x", 1<<20) + `"]`))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = Parse(`$[?search(@, '(x?){900}y')]`); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Select(long); !errors.Is(err, ErrTooMuch) {
		t.Errorf("a long text and a long pattern: %v", err)
	}
}

func FuzzSelect(f *testing.F) {
	f.Add(`$..book[?@.price<10 && match(@.a,'x')]['a',0,1:-1:2]`, store)
	f.Add(`$[?!(typeof(@.b) == "null" || length(value($..c)) >= -1.5e3)]`, filters)
	f.Fuzz(func(t *testing.T, text, doc string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		d, err := Decode([]byte(doc))
		if err != nil {
			return
		}
		_, _ = p.Select(d)
	})
}
