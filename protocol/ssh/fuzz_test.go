package ssh

import (
	"strings"
	"testing"
	"unicode"
)

// Whatever the file holds, there is a route or an error, and the two readers of the file agree
// on where lines and values are.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"Host a b\n  Port 22 # x\n  User=\"x y\"\nHost *\nIdentityFile ~/%u\n", "Match all\nProxyJump a,b@c:3\n", "Host\n", "a", "\r\n=\x00", "Host !\n",
	} {
		f.Add([]byte(seed))
	}
	home := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		if strings.Contains(strings.ToLower(string(text)), "include") {
			t.Skip("leads to other files")
		}
		if vet("f", text, home, 0) != nil {
			return
		}
		r := resolver{c: Config{Home: home, User: "u"}, path: "f"}
		var err error
		if r.parsed, err = decode(text); err != nil {
			return
		}
		route, err := r.route(jump{host: "a"}, "u", 0)
		if err == nil && (len(route) == 0 || len(route) > maxHops || route[len(route)-1].port == 0) {
			t.Errorf("%+v", route)
		}
	})
}

func FuzzJump(f *testing.F) {
	for _, seed := range []string{"a", "u@a:22", "ssh://u@[::1]:22/", "::1", "[a", "@:", "a@b@c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		j, err := parseJump(s)
		if err == nil && (j.host == "" || j.port < 0 || j.port > 65535 || strings.ContainsAny(j.host, "[]@/ ")) {
			t.Errorf("%q is %+v", s, j)
		}
	})
}

// What the other side says is shown in one short line that does nothing to a terminal.
func FuzzShown(f *testing.F) {
	f.Add([]byte("bash: line 1: pgx: not found\n\x1b[2J\xff second\r\nthird"))
	f.Fuzz(func(t *testing.T, text []byte) {
		shown := firstLines(text)
		if len([]rune(shown)) > 4*301+3*3 || strings.ContainsFunc(shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", shown)
		}
		_, _ = isText(text), isPgBackRest(text)
	})
}

func TestParseJump(t *testing.T) {
	for s, want := range map[string]jump{
		"a":                   {host: "a"},
		" u@a:2222":           {user: "u", host: "a", port: 2222},
		"u@x@a":               {user: "u@x", host: "a"},
		"ssh://u@a:22/":       {user: "u", host: "a", port: 22},
		"[fe80::1]:22":        {host: "fe80::1", port: 22},
		"[fe80::1]":           {host: "fe80::1"},
		"fe80::1":             {host: "fe80::1"},
		"":                    {},
		"@a":                  {},
		"a:":                  {},
		"a:0":                 {},
		"a:65536":             {},
		"[a":                  {},
		"a b":                 {},
		"http://a":            {},
		"ssh://u@a:22/path/x": {},
	} {
		j, err := parseJump(s)
		if j != want || (err == nil) != (want.host != "") {
			t.Errorf("%q is %+v, %v, want %+v", s, j, err, want)
		}
	}
}
