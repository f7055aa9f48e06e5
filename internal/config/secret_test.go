package config_test

import (
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/config"
)

// TestSecretIsNotInErrors: what is wrong with a secret, its name or the line it stands on is
// said without it, also where a slip keeps it from being known for one.
func TestSecretIsNotInErrors(t *testing.T) {
	t.Parallel()
	const secret = "zWa6XtpIVZC5444yXB"
	files := map[string]string{
		"equals.conf":  "[global]\nrepo1-cipher-pass " + secret + "\n",
		"colon.conf":   "[global]\nrepo1-cipher-pass: " + secret + "\n",
		"outside.conf": "repo1-cypher-pass=" + secret + "\n",
		"section.conf": "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cypher-pass=" + secret + "\n[demo]\npg1-path=/x\n",
		"twice.conf":   "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=" + secret + "\nrepo1-cipher-pass=" + secret + "2\n[demo]\npg1-path=/x\n",
		"bare.toml":    "[global]\nrepo1-cipher-pass = " + secret + "\n",
		"number.toml":  "[global]\nrepo1-cipher-pass = 99" + strings.Repeat("9", 20) + "x" + secret + "\n",
		"quote.toml":   "[global]\nrepo1-cipher-pass = \"" + secret + "\\" + secret + "\"\n",
		"slip.toml":    "[global]\nrepo1-cypher-pass = " + secret + "\n",
		"inline.toml":  "global = { repo1-cipher-pass = " + secret + " }\n",
		"lines.toml":   "[global]\nrepo1-cipher-pass = \"\"\"\n" + secret + "\\" + secret + "\"\"\"\n",
		"equals2.conf": "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass: " + secret + "==\n[demo]\npg1-path=/x\n",
		"blank.conf":   "[global]\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass " + secret + "=" + secret + "\n[demo]\npg1-path=/x\n",
		"long.conf":    "[global]\nrepo1-cipher-pass: " + strings.Repeat(secret, 4) + "==\n",
		"array.toml":   "[global]\nrepo1-cipher-pass = [\n" + secret + "]\n",
	}
	dir := root(t, files)
	args := [][]string{
		{"--repo1-cipher-pass=" + secret}, {"--repo1-cipher-pass", secret}, {"--repo1-cypher-pass=" + secret}, {"--cipher-pass=" + secret},
		{"-repo1-cipher-pass=" + secret}, {"--no-repo1-cipher-pass=" + secret}, {"--repo-cipher-pass=" + secret}, {"--repo1-cipher-pass:" + secret},
		{"--repo1-cipher-pass:" + strings.Repeat(secret, 4)}, {"--repo1-cypher-pass " + strings.Repeat(secret, 4) + "=x"},
	}
	for name := range files {
		args = append(args, []string{"--config=" + name})
	}
	for _, program := range []string{"/usr/bin/pgx", "/usr/bin/pgbackrest"} {
		for _, more := range args {
			c, err := config.Load(config.Input{Program: program, Dir: dir, Args: append([]string{"backup", "--stanza=demo"}, more...)})
			if err == nil {
				t.Errorf("%s %q: no error", program, more)
				continue
			}
			said := err.Error() + strings.Join(c.Warnings, "\n")
			for _, part := range []string{secret, secret[:6], "9999999"} {
				if strings.Contains(said, part) {
					t.Errorf("%s %q says\n%s", program, more, said)
				}
			}
		}
	}
	_, err := config.Load(config.Input{Dir: dir, Args: []string{"backup", "--repo1-cypher-pass=" + secret}})
	if want := "invalid option '--repo1-cypher-pass=<redacted>'\nHINT: did you mean '--repo1-cipher-pass'?"; err == nil || err.Error() != want {
		t.Errorf("a slip gives\n%v\nwant\n%s", err, want)
	}
	_, err = config.Load(config.Input{Dir: dir, Args: []string{"backup", "--config=bare.toml"}})
	if want := "a secret cannot be read (is it between quotes?) at line 2"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a value without quotes gives\n%v\nwant\n%s", err, want)
	}
}
