package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The profiler is linked into a program that asks for it, and into no other: PostgreSQL starts
// pgx for every segment, and nothing an environment says may make it write files.
func TestProfilerIsBuiltInOnDemand(t *testing.T) {
	for _, test := range []struct {
		tags string
		want bool
	}{{"", false}, {"profile", true}} {
		out, err := exec.Command("go", "list", "-deps", "-tags", test.tags, ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(strings.Fields(string(out)), "runtime/pprof"); got != test.want {
			t.Errorf("with tags '%s' runtime/pprof is linked: %t, want %t", test.tags, got, test.want)
		}
	}
}

func TestProfile(t *testing.T) {
	pgx := filepath.Join(t.TempDir(), "pgx")
	if out, err := exec.Command("go", "build", "-tags", "profile", "-o", pgx, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, test := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"success", []string{"version"}, 0, "version"},
		{"error", []string{"--stanza=x", "--config=/dev/null", "--allow-root", "archive-push:async"}, 43, "archive-push-async"},
		{"no command", []string{"--no-such-option"}, 31, "pgx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(pgx, test.args...)
			cmd.Env = append(os.Environ(), "PGX_PROFILE="+dir)
			out, err := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d: %v\n%s", code, test.code, err, out)
			}
			found, err := filepath.Glob(filepath.Join(dir, test.want+"-*.pprof"))
			if err != nil || len(found) != 1 {
				t.Fatalf("profiles %v, %v, want one of '%s'", found, err, test.want)
			}
			b, err := os.ReadFile(found[0])
			if err != nil {
				t.Fatal(err)
			}
			if gzip := []byte{0x1f, 0x8b}; !bytes.HasPrefix(b, gzip) {
				t.Errorf("a profile of %d bytes that is not complete", len(b))
			}
		})
	}
}
