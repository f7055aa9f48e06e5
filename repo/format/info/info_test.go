package info_test

import (
	"bytes"
	"fmt"
	"path"
	"reflect"
	"strings"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/info"
	"github.com/pgx-backup/pgx/repo/format/internal/golden"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

func TestGoldenArchives(t *testing.T) {
	for name, text := range golden.Files(t, "archive.info") {
		a, err := info.ParseArchive(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c := a.Current(); c.ID != 1 || c.Version != "15" || c.SystemID < 1<<60 || len(a.History()) != 1 {
			t.Errorf("%s: current cluster is %+v", name, c)
		}
		var b bytes.Buffer
		if err := a.Write(&b, a.Program); err != nil || !bytes.Equal(b.Bytes(), text) {
			t.Errorf("%s: error %v, wrote\n%s", name, err, b.Bytes())
		}
	}
}

// TestGoldenBackups reads real backup.info files, writes them again, and makes each entry
// from its manifest: sizes, references and options must be what pgBackRest wrote.
func TestGoldenBackups(t *testing.T) {
	manifests := golden.Files(t, "backup.manifest")
	entries := 0
	for name, text := range golden.Files(t, "backup.info") {
		b, err := info.ParseBackup(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var out bytes.Buffer
		if err := b.Write(&out, b.Program); err != nil || !bytes.Equal(out.Bytes(), text) {
			t.Errorf("%s: error %v, wrote\n%s", name, err, out.Bytes())
		}
		for _, listed := range b.Entries() {
			entries++
			m, err := manifest.Read(bytes.NewReader(manifests[path.Join(path.Dir(name), string(listed.Label), "backup.manifest")]))
			if err != nil {
				t.Errorf("%s: %v", listed.Label, err)
				continue
			}
			if made := info.NewEntry(m); !reflect.DeepEqual(made, listed) {
				t.Errorf("%s: entry of %s is\n%+v\nwant\n%+v", name, listed.Label, made, listed)
			}
			b.Remove(listed.Label)
			b.Add(info.NewEntry(m))
		}
		// Rebuilt from nothing but manifests it is still the same file.
		out.Reset()
		if err := b.Write(&out, b.Program); err != nil || !bytes.Equal(out.Bytes(), text) {
			t.Errorf("%s: error %v, rebuilt as\n%s", name, err, out.Bytes())
		}
	}
	if entries != len(manifests) {
		t.Errorf("%d entries for %d manifests", entries, len(manifests))
	}
}

var cluster = format.Cluster{SystemID: 1<<64 - 1, Version: "15", CatalogVersion: 202209061, ControlVersion: 1300}

func TestUpgrade(t *testing.T) {
	var out bytes.Buffer
	a := info.NewArchive(cluster, "secret")
	newer := format.Cluster{SystemID: 7, Version: "17", CatalogVersion: 202406281, ControlVersion: 1700}
	if id := a.Upgrade(newer); id != 2 {
		t.Errorf("id %d", id)
	}
	if id := a.Upgrade(cluster); id != 3 {
		t.Errorf("id %d", id)
	}
	if err := a.Write(&out, "2.60"); err != nil {
		t.Fatal(err)
	}
	a, err := info.ParseArchive(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	want := []format.Cluster{{ID: 1, SystemID: 1<<64 - 1, Version: "15"}, {ID: 2, SystemID: 7, Version: "17"}, {ID: 3, SystemID: 1<<64 - 1, Version: "15"}}
	if !reflect.DeepEqual(a.History(), want) || a.Current() != want[2] || a.CipherPass != "secret" || a.Program != "2.60" {
		t.Errorf("read back as %+v", a)
	}
	if id, found := a.ID(1<<64-1, "15"); id != 3 || !found {
		t.Errorf("the newest of two ids is %d, %v", id, found)
	}
	if _, found := a.ID(7, "15"); found {
		t.Error("a cluster of another version was found")
	}

	b := info.NewBackup(cluster, "")
	b.Upgrade(newer)
	out.Reset()
	if err := b.Write(&out, "2.60"); err != nil {
		t.Fatal(err)
	}
	b, err = info.ParseBackup(out.Bytes())
	if newer.ID = 2; err != nil || b.Current() != newer {
		t.Errorf("read back as %+v, error %v", b, err)
	}
}

const (
	full = format.Label("20260101-000000F")
	diff = full + "_20260102-000000D"
	incr = full + "_20260103-000000I"
	last = full + "_20260104-000000I"
	next = format.Label("20260105-000000F")
)

func list() *info.Backup {
	b := info.NewBackup(cluster, "")
	b.Add(info.BackupEntry{Label: next, Type: format.Full, ClusterID: 1})
	b.Add(info.BackupEntry{Label: last, Type: format.Incr, Prior: full, Reference: []format.Label{full}, ClusterID: 1})
	b.Add(info.BackupEntry{Label: incr, Type: format.Incr, Prior: diff, Reference: []format.Label{full, diff}, ClusterID: 1})
	b.Add(info.BackupEntry{Label: diff, Type: format.Diff, Prior: full, Reference: []format.Label{full}, ClusterID: 1})
	b.Add(info.BackupEntry{Label: full, Type: format.Full, ClusterID: 1})
	return b
}

func TestDependents(t *testing.T) {
	b := list()
	for label, want := range map[format.Label][]format.Label{full: {diff, incr, last}, diff: {incr}, last: nil, next: nil} {
		if got := b.Dependents(label); !reflect.DeepEqual(got, want) {
			t.Errorf("dependents of %s are %s, want %s", label, got, want)
		}
	}
	b.Remove(diff)
	if b.Entry(diff) != nil || b.Entry(full) == nil || len(b.Entries()) != 4 {
		t.Error("the list is wrong after a removal")
	}
}

func text(t testing.TB, b *info.Backup) string {
	t.Helper()
	var out bytes.Buffer
	if err := b.Write(&out, "2.60"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// sign gives a changed text the checksum it needs, which the error of the parser tells.
func sign[T any](body string, parse func([]byte) (T, error)) []byte {
	_, err := parse([]byte(body))
	_, sum, found := strings.Cut(fmt.Sprint(err), "actual '")
	at := strings.LastIndex(body, "backrest-checksum=")
	if !found || at < 0 || len(sum) < 40 {
		return []byte(body)
	}
	return []byte(body[:at] + `backrest-checksum="` + sum[:40] + "\"\n")
}

func TestUnknownIsKept(t *testing.T) {
	was := text(t, list())
	s := strings.Replace(was, `"backup-type":"diff",`, `"backup-type":"diff","backup-zeal":{"x": 1},`, 1)
	s = strings.Replace(s, "[db:history]", "db-zeal=[1, 2]\n\n[db:history]", 1)
	s = strings.Replace(s, `"db-version":"15"}`, `"db-version":"15","db-zeal":null}`, 1)
	s = strings.Replace(s, "db-version=\"15\"\n\ndb-zeal", "db-version=\"15\"\ndb-zeal", 1)
	s = strings.Replace(s, "[backup:current]", "[aaa]\nk=1\n\n[backup:current]", 1)
	changed := sign(s, info.ParseBackup)
	b, err := info.ParseBackup(changed)
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, b); got != string(changed) || strings.Count(got, "zeal") != 3 {
		t.Errorf("wrote\n%s\nwant\n%s", got, changed)
	}
}

func TestBackupRefuses(t *testing.T) {
	was := text(t, list())
	if _, err := info.ParseBackup([]byte(was)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		old, new, message string
		code              errs.Code
	}{
		"label":         {string(next) + "=", "../" + string(next) + "=", "is not a backup label", errs.Format},
		"prior":         {`"backup-prior":"` + string(diff), `"backup-prior":"../` + string(diff), "is not a backup label", errs.Format},
		"reference":     {`["` + string(full) + `",`, `["..",`, "'backup-reference': '..' is not a backup label", errs.Format},
		"type":          {`"backup-type":"diff"`, `"backup-type":"incr"`, "has the type 'incr'", errs.Format},
		"twice":         {string(next) + "=", string(full) + "=", "backup '" + string(full) + "' is listed twice", errs.Format},
		"missing key":   {`,"option-online":false`, "", "required key 'option-online' not found", errs.JSONFormat},
		"negative size": {`"backup-info-size":0`, `"backup-info-size":-1`, "invalid number", errs.JSONFormat},
		"wrong type":    {`"option-hardlink":false`, `"option-hardlink":0`, "expected boolean", errs.JSONFormat},
		"not an object": {string(next) + "={", string(next) + `="" [zzz]` + "\n#={", "", errs.Format},
		"current id":    {"db-id=1", "db-id=2", "unable to find current id in history", errs.Format},
		"history id":    {"\n1={", "\n0={", "'0' is not the id of a cluster", errs.Format},
		"version":       {`"db-version":"15"`, `"db-version":"../15"`, "'../15' is not a version of PostgreSQL", errs.Format},
		"no history":    {"[db:history]\n1=", "[zzz]\n1=", "history is missing", errs.Format},
		"no current id": {"\ndb-id=1\n", "\n", "current id is missing", errs.Format},
		"incomplete":    {`"db-catalog-version":202209061,`, "", "required key 'db-catalog-version' not found", errs.JSONFormat},
		"system id":     {`"db-system-id":18446744073709551615`, `"db-system-id":18446744073709551616`, "", errs.Format},
		"half a map":    {`"backup-info-size":0`, `"backup-info-repo-size-map":1,"backup-info-size":0`, "delta not found", errs.JSONFormat},
		"keys out of order": {`"option-hardlink":false,"option-online":false`, `"option-online":false,"option-hardlink":false`,
			"not in ascending order", errs.JSONFormat},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(was, test.old) {
				t.Fatalf("nothing to change in\n%s", was)
			}
			_, err := info.ParseBackup(sign(strings.Replace(was, test.old, test.new, 1), info.ParseBackup))
			if errs.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.message) {
				t.Errorf("error is %v (%v)", err, errs.CodeOf(err))
			}
		})
	}
}

func TestAnnotations(t *testing.T) {
	b := list()
	b.Entry(full).Annotations = map[string]string{"note": `two words, "quoted"`, "a": ""}
	again, err := info.ParseBackup([]byte(text(t, b)))
	if err != nil || !reflect.DeepEqual(again.Entry(full).Annotations, b.Entry(full).Annotations) {
		t.Errorf("read back as %+v, error %v", again, err)
	}
	b.Entry(full).Annotations = map[string]string{`"`: "x"}
	if err := b.Write(&bytes.Buffer{}, "x"); errs.CodeOf(err) != errs.Format {
		t.Errorf("a key that cannot be read again was written: %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	for _, text := range golden.Files(f, "archive.info") {
		f.Add(text)
		break
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := info.ParseArchive(sign(string(text), info.ParseArchive))
		if err != nil {
			return
		}
		var once, twice bytes.Buffer
		if err := a.Write(&once, a.Program); err != nil {
			t.Fatal(err)
		}
		b, err := info.ParseArchive(once.Bytes())
		if err != nil || !reflect.DeepEqual(a.History(), b.History()) || a.Current() != b.Current() || a.CipherPass != b.CipherPass {
			t.Fatalf("error %v, from\n%+v\nto\n%+v", err, a, b)
		}
		if err := b.Write(&twice, b.Program); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("error %v, from\n%q\nto\n%q", err, once.Bytes(), twice.Bytes())
		}
	})
}

func FuzzBackup(f *testing.F) {
	f.Add([]byte(text(f, list())))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := info.ParseBackup(sign(string(text), info.ParseBackup))
		if err != nil {
			return
		}
		var once, twice bytes.Buffer
		if err := a.Write(&once, a.Program); err != nil {
			t.Fatal(err)
		}
		b, err := info.ParseBackup(once.Bytes())
		if err != nil || !reflect.DeepEqual(a.Entries(), b.Entries()) || a.Current() != b.Current() {
			t.Fatalf("error %v, from\n%+v\nto\n%+v", err, a, b)
		}
		if err := b.Write(&twice, b.Program); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("error %v, from\n%q\nto\n%q", err, once.Bytes(), twice.Bytes())
		}
	})
}
