package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/repo/format"
)

// Text writes the stanzas for people. Times are shown in zone. set says that one backup
// was asked for, of which everything is shown.
func Text(w io.Writer, all []Stanza, set bool, zone *time.Location) error {
	if len(all) == 0 {
		_, err := io.WriteString(w, "No stanzas exist in the repository.\n")
		return err
	}
	t := &text{set: set, zone: zone}
	for i, s := range all {
		if i > 0 {
			t.add("\n")
		}
		t.stanza(s)
	}
	_, err := io.WriteString(w, t.String())
	return err
}

type text struct {
	strings.Builder
	set  bool
	zone *time.Location
}

func (t *text) add(format string, args ...any) { fmt.Fprintf(t, format, args...) }

func (t *text) stanza(s Stanza) {
	full := s.DB != nil || s.Repo != nil // else only progress was asked for
	t.add("stanza: %s\n    status: ", s.Name)

	label := "ok"
	var notes []string
	switch {
	case s.Status.Code == StatusMixed && full:
		label = "mixed"
	case s.Status.Code != StatusOK:
		label = "error"
		notes = append(notes, s.Status.Message)
	}
	lock := s.Status.Lock
	if lock.Backup.Held {
		notes = append(notes, "backup/expire running"+complete(lock.Backup.Done, lock.Backup.Size))
	}
	if lock.Restore.Held {
		notes = append(notes, "restore running"+complete(lock.Restore.Done, lock.Restore.Size))
	}
	t.add("%s", label)
	if len(notes) > 0 {
		t.add(" (%s)", strings.Join(notes, ", "))
	}
	t.add("\n")
	if len(lock.Backup.Repo) > 1 {
		for _, r := range lock.Backup.Repo {
			t.add("        repo%d backup: %s complete\n", r.Key, percent(r.Done, r.Size))
		}
	}
	if !full {
		return
	}
	switch s.Status.Code {
	case StatusMixed, StatusMismatch, StatusOther:
		t.repos(s.Repo)
	}
	if s.Status.Code != StatusMissingStanzaPath {
		t.add("    cipher: %s\n", s.Cipher)
		if s.Cipher == "mixed" {
			for _, r := range s.Repo {
				t.add("        repo%d: %s\n", r.Key, r.Cipher)
			}
		}
	}
	t.warnings(s)
	if len(s.DB) > 0 {
		t.databases(s)
	}
}

func complete(done, size *int64) string {
	if size == nil {
		return ""
	}
	return " - " + percent(*done, *size) + " complete"
}

// percent cuts after two digits, so that 100% means all.
func percent(done, size int64) string {
	p := int64(0)
	if size > 0 {
		p = done * 10000 / size
	}
	return fmt.Sprintf("%d.%02d%%", p/100, p%100)
}

func (t *text) repos(all []Repo) {
	indent := "            "
	if len(all) > 1 {
		indent = "               "
	}
	for _, r := range all {
		if len(all) > 1 {
			t.add("        repo%d: ", r.Key)
		}
		switch r.Status.Code {
		case StatusOK:
			t.add("ok\n")
		case StatusOther:
			if len(all) > 1 {
				t.add("error (other)\n")
			}
			t.add("%s%s\n", indent, strings.ReplaceAll(r.Status.Message, "\n", "\n"+indent))
		default:
			t.add("error (%s)\n", r.Status.Message)
		}
	}
}

// cluster is what belongs to one identity over all repositories.
type cluster struct {
	identity
	first, last string
	backups     []Backup
}

func (t *text) databases(s Stanza) {
	var all []*cluster
	at := map[Key]*cluster{}
	for _, db := range s.DB {
		id := identity{db.SystemID, db.Version}
		i := slices.IndexFunc(all, func(c *cluster) bool { return c.identity == id })
		if i < 0 {
			all, i = append(all, &cluster{identity: id}), len(all)
		}
		c := all[i]
		at[Key{db.ID, db.RepoKey}] = c
		for _, a := range s.Archive {
			if a.Database != (Key{db.ID, db.RepoKey}) || a.Min == nil {
				continue
			}
			if c.first == "" || *a.Min < c.first {
				c.first = *a.Min
			}
			if *a.Max > c.last {
				c.last = *a.Max
			}
		}
	}
	shown := all
	for _, b := range s.Backup {
		if c := at[b.Database]; c != nil {
			c.backups = append(c.backups, b)
			if t.set {
				shown = []*cluster{c}
			}
		}
	}
	for _, c := range shown { // older ones first
		if c.identity != s.current && (c.first != "" || len(c.backups) > 0) {
			t.add("\n    db (prior)")
			t.cluster(c)
		}
	}
	for _, c := range shown {
		if c.identity == s.current {
			t.add("\n    db (current)")
			t.cluster(c)
		}
	}
}

func (t *text) cluster(c *cluster) {
	t.add("\n        wal archive min/max (%s): ", c.version)
	if c.first == "" {
		t.add("none present\n")
	} else {
		t.add("%s/%s\n", c.first, c.last)
	}
	for _, b := range c.backups {
		t.backup(b)
	}
}

func (t *text) backup(b Backup) {
	t.add("\n        %s backup: %s\n", b.Type, b.Label)
	t.add("            timestamp start/stop: %s / %s\n", t.time(b.Timestamp.Start), t.time(b.Timestamp.Stop))
	if b.Archive.Start != nil && b.Archive.Stop != nil {
		t.add("            wal start/stop: %s / %s\n", *b.Archive.Start, *b.Archive.Stop)
	} else {
		t.add("            wal start/stop: n/a\n")
	}
	t.restorable(b)
	if t.set && b.LSN != nil {
		t.add("            lsn start/stop: %s / %s\n", *b.LSN.Start, *b.LSN.Stop)
	}
	t.add("            database size: %s, database backup size: %s\n", logging.Size(b.Info.Size), logging.Size(b.Info.Delta))
	t.add("            repo%d: ", b.Database.RepoKey)
	if b.Info.Repository.Size != nil {
		t.add("backup set size: %s, ", logging.Size(*b.Info.Repository.Size))
	}
	t.add("backup size: %s\n", logging.Size(b.Info.Repository.Delta))
	if len(b.Reference) > 0 {
		t.references(b.Reference)
	}
	if t.set {
		t.contents(b)
	}
	if b.Error != nil && *b.Error {
		if len(b.ErrorList) > 0 {
			t.add("            error list: %s\n", strings.Join(b.ErrorList, ", "))
		} else {
			t.add("            error(s) detected during backup\n")
		}
	}
	if t.set && len(b.Annotation) > 0 {
		t.add("            annotation(s)\n")
		for _, k := range sortedKeys(b.Annotation) {
			t.add("                %s: %s\n", k, b.Annotation[k])
		}
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (t *text) references(labels []string) {
	if t.set {
		t.add("            backup reference list: %s\n", strings.Join(labels, ", "))
		return
	}
	count := map[format.BackupType]int{}
	for _, l := range labels {
		count[format.Label(l).Type()]++
	}
	t.add("            backup reference total: %d full", count[format.Full])
	for _, kind := range []format.BackupType{format.Diff, format.Incr} {
		if count[kind] > 0 {
			t.add(", %d %s", count[kind], kind)
		}
	}
	t.add("\n")
}

// contents shows what is only looked up for a single backup.
func (t *text) contents(b Backup) {
	if b.DatabaseRef != nil {
		t.add("            database list:")
		if len(*b.DatabaseRef) == 0 {
			t.add(" none")
		}
		for i, d := range *b.DatabaseRef {
			if i > 0 {
				t.add(",")
			}
			t.add(" %s (%d)", d.Name, d.OID)
		}
		t.add("\n")
	}
	if b.Link != nil && *b.Link != nil {
		t.add("            symlinks:\n")
		for _, l := range *b.Link {
			t.add("                %s => %s\n", l.Name, l.Destination)
		}
	}
	if b.Tablespace != nil && *b.Tablespace != nil {
		t.add("            tablespaces:\n")
		for _, s := range *b.Tablespace {
			t.add("                %s (%d) => %s\n", s.Name, s.OID, s.Destination)
		}
	}
}

func (t *text) time(epoch int64) string { return logging.Time(time.Unix(epoch, 0).In(t.zone)) }
