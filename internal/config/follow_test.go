package config_test

import (
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/config"
)

// TestFollow: what a backup was told holds for the expire after it; what only a section of
// expire says does not, and what expire does not know is gone.
func TestFollow(t *testing.T) {
	t.Parallel()
	dir := root(t, map[string]string{"c.conf": "[global]\nrepo1-retention-full=2\n[global:backup]\nrepo1-retention-diff=3\n" +
		"[global:expire]\nrepo1-retention-diff=9\n[x]\npg1-path=/x\n"})
	backup := load(t, config.Input{Args: strings.Fields("backup --config=" + dir + "/c.conf --stanza=x --type=full --no-online --repo1-retention-archive=5")})
	expire := backup.Follow(config.CmdExpire)
	if expire.Command != config.CmdExpire || backup.Command != config.CmdBackup {
		t.Errorf("%s follows %s", expire.Command, backup.Command)
	}
	want := "--config=" + dir + "/c.conf --repo1-retention-archive=5 --repo1-retention-diff=3 --repo1-retention-full=2 --stanza=x"
	if got := expire.Begin(); got != want {
		t.Errorf("it begins with\n%s\nwant\n%s", got, want)
	}
	if !backup.IsSet(config.OptOnline) || expire.IsSet(config.OptOnline) || expire.IsSet(config.OptDryRun) || expire.Int(config.OptRepoRetentionDiff) != 3 {
		t.Errorf("online of the backup is set: %t; of expire online %t, dry-run %t, retention-diff %d", backup.IsSet(config.OptOnline),
			expire.IsSet(config.OptOnline), expire.IsSet(config.OptDryRun), expire.Int(config.OptRepoRetentionDiff))
	}
}
