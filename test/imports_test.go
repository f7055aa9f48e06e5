// Package test holds the tests that look at pgx from outside: its source as a whole, and
// the built program with real PostgreSQL and the real pgbackrest.
package test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pgx-backup/pgx/"

// rules say which packages of the module a package, or one below it with "/...", may
// import. A package without a rule may import none but those of anyone.
var rules = []struct {
	of  string
	may []string
}{
	{"cmd/...", []string{"..."}},
	{"stanza", []string{"agent", "repo", "repo/format/...", "repo/storage", "internal/postgres", "internal/pgsql", "internal/pipeline"}},
	{"stanza/expire/expiretest", []string{"repo/format/...", "repo/storage/...", "internal/cipher"}},
	{"stanza/...", []string{"stanza", "agent", "agent/pgdata", "repo", "repo/format/...", "repo/storage", "internal/postgres",
		"internal/pgsql", "internal/pipeline", "internal/parallel", "internal/block", "internal/cipher", "internal/compress", "internal/lock", "internal/progress"}},
	{"agent", []string{"agent/pgdata", "protocol", "internal/postgres", "internal/pgsql", "internal/pipeline", "internal/block", "internal/cipher", "internal/compress"}},
	{"agent/...", []string{"internal/postgres", "internal/pipeline", "internal/block", "internal/cipher", "internal/compress", "internal/durable", "internal/spare"}},
	{"protocol", nil},
	{"protocol/ssh", []string{"protocol/tcp"}},
	{"protocol/sshd", []string{"protocol/tcp", "internal/durable"}},
	{"protocol/tcp", nil},
	{"protocol/protocoltest", []string{"protocol"}},
	{"repo/remote", []string{"repo", "repo/format", "repo/storage", "protocol", "internal/postgres", "internal/pipeline", "internal/cipher", "internal/compress"}},
	{"repo", []string{"repo/format/...", "repo/storage", "internal/postgres", "internal/pipeline", "internal/block", "internal/cipher", "internal/compress"}},
	{"repo/format", nil},
	{"repo/format/...", []string{"repo/format/..."}},
	{"repo/storage", nil},
	{"repo/storage/...", []string{"repo/storage", "internal/durable"}},
	{"internal/pgsql", []string{"internal/postgres"}},
	{"internal/pipeline", []string{"internal/postgres", "internal/block", "internal/cipher", "internal/compress", "internal/spare"}},
	{"internal/block", []string{"internal/cipher", "internal/compress"}},
	{"internal/compress", []string{"internal/lz4", "internal/spare"}},
	{"internal/lock", []string{"internal/durable"}},
	{"internal/config", []string{"internal/compress"}},
	{"test/...", []string{"..."}},
}

// anyone may import these; they import nothing of the module but one another.
var anyone = []string{"internal/errs", "internal/logging"}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}}: {{join .Imports \" \"}}", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 20 {
		t.Fatalf("go list found only %d packages", len(lines))
	}
	for _, line := range lines {
		of, imports, _ := strings.Cut(line, ": ")
		of = strings.TrimPrefix(of, module)
		for imported := range strings.FieldsSeq(imports) {
			if imported, ours := strings.CutPrefix(imported, module); ours && !allowed(of, imported) {
				t.Errorf("%s must not import %s", of, imported)
			}
			if strings.HasPrefix(imported, "github.com/jackc/pgx/") && of != "internal/pgsql" && of != "internal/pgtest" {
				t.Errorf("%s must not import %s: only internal/pgsql speaks to the server", of, imported)
			}
		}
	}
}

func allowed(of, imported string) bool {
	if slices.Contains(anyone, imported) {
		return true
	}
	for _, r := range rules {
		if matches(r.of, of) {
			return slices.ContainsFunc(r.may, func(m string) bool { return matches(m, imported) })
		}
	}
	return false
}

// matches says whether the pattern names the package; "x/..." is x and all below it.
func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	below, wild := strings.CutSuffix(pattern, "/...")
	return pkg == below || wild && strings.HasPrefix(pkg, below+"/")
}
