package manifest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/internal/golden"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

func write(t testing.TB, m *manifest.Manifest) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func parse(t testing.TB, text []byte) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sign gives a changed text the checksum it needs, which the error of the parser tells.
func sign(body string) []byte {
	_, err := manifest.Read(strings.NewReader(body))
	_, sum, found := strings.Cut(fmt.Sprint(err), "actual '")
	at := strings.LastIndex(body, "backrest-checksum=")
	if !found || at < 0 || len(sum) < 40 {
		return []byte(body)
	}
	return []byte(body[:at] + `backrest-checksum="` + sum[:40] + "\"\n")
}

func TestGolden(t *testing.T) {
	for name, text := range golden.Files(t, "backup.manifest") {
		m, err := manifest.Read(bytes.NewReader(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := write(t, m); !bytes.Equal(got, text) {
			t.Errorf("%s comes out changed:\n%s", name, got)
		}
		if err := m.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := m.CheckLinks(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// Files taken out and put in again by way of their values are the same.
		var files manifest.Files
		for f := range m.Files.All() {
			if got, found := m.Files.Find(f.Name); !found || !reflect.DeepEqual(got, f) {
				t.Errorf("%s: found %+v, want %+v", name, got, f)
			}
			if err := files.Add(f); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := m.Files.Set(f); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := write(t, m); !bytes.Equal(got, text) {
			t.Errorf("%s comes out changed after setting every file", name)
		}
		m.Files = files
		if err := m.SetDefaults(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := write(t, m); !bytes.Equal(got, text) {
			t.Errorf("%s comes out changed when rebuilt", name)
		}
	}
}

var (
	sumA = manifest.SHA1{1: 0xa}
	sumB = manifest.SHA1{1: 0xb}
)

const (
	fullLabel = format.Label("20260101-000000F")
	incrLabel = fullLabel + "_20260102-000000I"
	nextLabel = fullLabel + "_20260103-000000I"
)

// sample makes a small manifest with one of everything, its entries added in no order.
func sample(t testing.TB) *manifest.Manifest {
	t.Helper()
	m := &manifest.Manifest{
		Program: "pgx 1", ArchiveStart: "000000010000000000000001", ArchiveStop: "000000010000000000000002",
		LSNStart: "0/1000028", LSNStop: "0/2000100", CopyStart: 101, Start: 100, Stop: 110,
		Bundle: true, BlockIncr: true, BundleRaw: true,
		Cluster: format.Cluster{ID: 1, SystemID: 7710435159552024453, Version: "15", CatalogVersion: 202209061, ControlVersion: 1300},
		Options: manifest.Options{ArchiveCheck: true, CompressType: "zst", CompressLevel: new(-1), Online: true, ChecksumPage: new(true)},
	}
	prior := &manifest.Manifest{Label: fullLabel, References: []format.Label{fullLabel}}
	m.SetLabel(incrLabel, prior)

	base := manifest.Attributes{Owner: manifest.Owner{User: "postgres", Group: "postgres"}, Mode: 0o700}
	for _, name := range []string{"pg_tblspc/16384/PG_15_202209061", "pg_data/pg_tblspc", "pg_data/base", "pg_tblspc", "pg_data/log",
		"pg_tblspc/16384", "pg_data", "pg_data/base/1", "pg_tblspc/16384/PG_15_202209061/5"} {
		m.Paths.Add(manifest.Path{Name: name, Attributes: base})
	}
	odd := base
	odd.Mode, odd.User = 0o2750, ""
	m.Paths.Add(manifest.Path{Name: "pg_data/odd", Attributes: odd})

	m.Targets.Add(manifest.Target{Name: "pg_tblspc/16384", Path: "/ts", TablespaceID: 16384, TablespaceName: "ts"})
	m.Targets.Add(manifest.Target{Name: "pg_data", Path: "/pg"})
	m.Targets.Add(manifest.Target{Name: "pg_data/log", Path: "../log"})
	m.Targets.Add(manifest.Target{Name: "pg_data/pg_hba.conf", Path: "/etc/pg", File: "hba"})
	m.Links.Add(manifest.Link{Name: "pg_data/pg_tblspc/16384", Destination: "/ts", Owner: base.Owner})
	m.Links.Add(manifest.Link{Name: "pg_data/pg_hba.conf", Destination: "/etc/pg/hba", Owner: base.Owner})
	m.Links.Add(manifest.Link{Name: "pg_data/log", Destination: "../log", Owner: manifest.Owner{Group: "adm"}})
	m.Databases.Add(manifest.Database{Name: "template0", ID: 4, LastSystemID: 4})
	m.Databases.Add(manifest.Database{Name: "a=b", ID: 5, LastSystemID: 4})
	m.Annotations = map[string]string{"why": "test"}

	file := base
	file.Mode = 0o600
	for _, f := range []manifest.File{
		{Name: "pg_tblspc/16384/PG_15_202209061/5/16400", Size: 8192, RepoSize: 100, Checksum: sumA, RepoChecksum: sumB, Bundle: 1, BundleOffset: 10,
			Reference: fullLabel, Timestamp: 50, Pages: manifest.PagesInvalid, PageErrors: []manifest.PageRange{{First: 3, Last: 3}, {First: 7, Last: 9}}},
		{Name: "pg_data/base/1/1", Size: 65536, RepoSize: 300, Checksum: sumA, RepoChecksum: sumB, Bundle: 1, BundleOffset: 110,
			Timestamp: 60, BlockSize: 16384, BlockChecksumSize: 7, BlockMapSize: 25, Pages: manifest.PagesValid},
		{Name: "pg_data/base/1/2", Size: 1 << 40, RepoSize: 1 << 39, Checksum: sumA, RepoChecksum: sumB, Timestamp: -5,
			BlockSize: 8192, BlockChecksumSize: 6, BlockMapSize: 1 << 20, Pages: manifest.PagesValid},
		{Name: "pg_data/PG_VERSION", Size: 3, RepoSize: 3, Checksum: sumA, Timestamp: 40, OriginalSize: 5},
		{Name: "pg_data/empty = file.txt", Timestamp: 40},
		{Name: "pg_data/pg_hba.conf", Size: 4, RepoSize: 20, Checksum: sumB, Timestamp: 40},
	} {
		f.Attributes = file
		if f.Name == "pg_data/PG_VERSION" {
			f.Mode, f.Group = 0o4644, "other"
		}
		if err := m.Files.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	return m
}

const sampleText = `[backrest]
backrest-format=5
backrest-version="pgx 1"

[backup]
backup-archive-start="000000010000000000000001"
backup-archive-stop="000000010000000000000002"
backup-block-incr=true
backup-bundle=true
backup-bundle-raw=true
backup-label="20260101-000000F_20260102-000000I"
backup-lsn-start="0/1000028"
backup-lsn-stop="0/2000100"
backup-prior="20260101-000000F"
backup-reference="20260101-000000F,20260101-000000F_20260102-000000I"
backup-timestamp-copy-start=101
backup-timestamp-start=100
backup-timestamp-stop=110
backup-type="incr"

[backup:db]
db-catalog-version=202209061
db-control-version=1300
db-id=1
db-system-id=7710435159552024453
db-version="15"

[backup:option]
option-archive-check=true
option-archive-copy=false
option-checksum-page=true
option-compress=true
option-compress-level=4294967295
option-compress-type="zst"
option-hardlink=false
option-online=true

[backup:target]
pg_data={"path":"/pg","type":"path"}
pg_data/log={"path":"../log","type":"link"}
pg_data/pg_hba.conf={"file":"hba","path":"/etc/pg","type":"link"}
pg_tblspc/16384={"path":"/ts","tablespace-id":"16384","tablespace-name":"ts","type":"link"}

[db]
a=b={"db-id":5,"db-last-system-id":4}
template0={"db-id":4,"db-last-system-id":4}

[metadata]
annotation={"why":"test"}

[target:file]
pg_data/PG_VERSION={"checksum":"000a000000000000000000000000000000000000","group":"other","mode":"4644","size":3,"szo":5,"timestamp":40}
pg_data/base/1/1={"bi":2,"bic":7,"bim":25,"bni":1,"bno":110,"checksum":"000a000000000000000000000000000000000000","checksum-page":true,"rck":"000b000000000000000000000000000000000000","repo-size":300,"size":65536,"timestamp":60}
pg_data/base/1/2={"bi":1,"bim":1048576,"checksum":"000a000000000000000000000000000000000000","checksum-page":true,"rck":"000b000000000000000000000000000000000000","repo-size":549755813888,"size":1099511627776,"timestamp":-5}
pg_data/empty = file.txt={"size":0,"timestamp":40}
pg_data/pg_hba.conf={"checksum":"000b000000000000000000000000000000000000","repo-size":20,"size":4,"timestamp":40}
pg_tblspc/16384/PG_15_202209061/5/16400={"bni":1,"bno":10,"checksum":"000a000000000000000000000000000000000000","checksum-page":false,"checksum-page-error":[3,[7,9]],"rck":"000b000000000000000000000000000000000000","reference":"20260101-000000F","repo-size":100,"size":8192,"timestamp":50}

[target:file:default]
group="postgres"
mode="0600"
user="postgres"

[target:link]
pg_data/log={"destination":"../log","group":"adm","user":false}
pg_data/pg_hba.conf={"destination":"/etc/pg/hba"}
pg_data/pg_tblspc/16384={"destination":"/ts"}

[target:link:default]
group="postgres"
user="postgres"

[target:path]
pg_data={}
pg_data/base={}
pg_data/base/1={}
pg_data/log={}
pg_data/odd={"mode":"2750","user":false}
pg_data/pg_tblspc={}
pg_tblspc={}
pg_tblspc/16384={}
pg_tblspc/16384/PG_15_202209061={}
pg_tblspc/16384/PG_15_202209061/5={}

[target:path:default]
group="postgres"
mode="0700"
user="postgres"

[backrest]
`

func TestBuild(t *testing.T) {
	text := write(t, sample(t))
	if got, _, _ := strings.Cut(string(text), "backrest-checksum"); got != sampleText {
		t.Errorf("wrote\n%s\nwant\n%s", got, sampleText)
	}
	m := parse(t, text)
	if got := write(t, m); !bytes.Equal(got, text) {
		t.Errorf("comes out changed:\n%s", got)
	}
	if *m.Options.CompressLevel != -1 {
		t.Errorf("level is %d", *m.Options.CompressLevel)
	}
	if err := m.Validate(); err != nil {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	m := sample(t)
	names := func() (list []string) {
		for f := range m.Files.All() {
			list = append(list, f.Name)
		}
		return list
	}
	all := names()
	if !slices.IsSorted(all) || len(all) != 6 || m.Files.Len() != 6 {
		t.Errorf("files are %q", all)
	}
	f, found := m.Files.Find("pg_data/base/1/1")
	if !found || f.User != "postgres" || f.Mode != 0o600 || f.BlockSize != 16384 || f.OriginalSize != 65536 {
		t.Errorf("found %+v", f)
	}

	// It was copied, and was shorter than before.
	f.Size, f.RepoSize, f.Reference, f.BlockMapSize = 0, 0, fullLabel, 0
	f.PageErrors, f.Pages = []manifest.PageRange{{First: 1, Last: 2}}, manifest.PagesInvalid
	if err := m.Files.Set(f); err != nil {
		t.Fatal(err)
	}
	f.Checksum = manifest.EmptySHA1
	if got, _ := m.Files.Find(f.Name); !reflect.DeepEqual(got, f) {
		t.Errorf("set\n%+v\nfound\n%+v", f, got)
	}

	if !m.Files.Remove("pg_data/PG_VERSION") || m.Files.Remove("pg_data/PG_VERSION") || m.Files.Remove("pg_data/none") {
		t.Error("a removal said the wrong thing")
	}
	if _, found := m.Files.Find("pg_data/PG_VERSION"); found || m.Files.Len() != 5 || slices.Contains(names(), "pg_data/PG_VERSION") {
		t.Error("a removed file is still there")
	}
	if err := m.Files.Set(manifest.File{Name: "pg_data/PG_VERSION"}); errs.CodeOf(err) != errs.Format {
		t.Errorf("a removed file was set: %v", err)
	}
	if err := m.Files.Add(manifest.File{Name: "pg_data/PG_VERSION", Attributes: f.Attributes}); err != nil || m.Files.Len() != 6 {
		t.Errorf("%d files after adding again, error %v", m.Files.Len(), err)
	}
	if !slices.Equal(names(), all) {
		t.Errorf("files are %q", names())
	}
	if s := m.Sums(); s.Size != 1<<40+8192+4 || s.SizeDelta != 1<<40+4 || s.RepoSize != 1<<39+100+20 || s.RepoSizeDelta != 1<<39+20 ||
		s.MapSize != 1<<20 || s.MapSizeDelta != 1<<20 || !s.PageErrors {
		t.Errorf("sums are %+v", s)
	}

	for name, f := range map[string]manifest.File{
		"negative size":      {Size: -1},
		"odd block size":     {BlockSize: 8191, BlockChecksumSize: 6},
		"no block checksum":  {BlockSize: 8192},
		"map without blocks": {BlockMapSize: 5, RepoSize: 10},
		"map too large":      {BlockSize: 8192, BlockChecksumSize: 6, BlockMapSize: 11, RepoSize: 10},
		"offset alone":       {BundleOffset: 1},
		"offset too large":   {Bundle: 1, BundleOffset: 1<<63 - 1, RepoSize: 1},
		"mode":               {Attributes: manifest.Attributes{Mode: 0o10000}},
	} {
		f.Name = "pg_data/x"
		if err := m.Files.Add(f); errs.CodeOf(err) != errs.Format || !strings.Contains(err.Error(), "'pg_data/x'") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStored(t *testing.T) {
	m := sample(t)
	get := func(name string) manifest.Stored {
		f, _ := m.Files.Find(name)
		return m.Stored("demo", f)
	}
	dir := "backup/demo/" + string(incrLabel) + "/"
	for name, want := range map[string]manifest.Stored{
		"pg_tblspc/16384/PG_15_202209061/5/16400": {Kind: manifest.Bundled, Label: fullLabel, Path: "backup/demo/" + string(fullLabel) + "/bundle/1",
			Offset: 10, Length: 100, Ext: ".zst", Raw: true},
		"pg_data/base/1/1": {Kind: manifest.Block, Label: incrLabel, Path: dir + "bundle/1", Offset: 110, Length: 300, Ext: ".zst", Raw: true,
			MapOffset: 385, MapLength: 25},
		"pg_data/base/1/2": {Kind: manifest.Block, Label: incrLabel, Path: dir + "pg_data/base/1/2.pgbi", Length: 1 << 39, Ext: ".zst", Raw: true,
			MapOffset: 1<<39 - 1<<20, MapLength: 1 << 20},
		"pg_data/PG_VERSION":       {Kind: manifest.Whole, Label: incrLabel, Path: dir + "pg_data/PG_VERSION.zst", Length: 3, Ext: ".zst"},
		"pg_data/empty = file.txt": {Kind: manifest.Nothing, Label: incrLabel},
	} {
		if got := get(name); got != want {
			t.Errorf("%s is stored as\n%+v\nwant\n%+v", name, got, want)
		}
	}
	m.Bundle, m.Options.CompressType = false, "none"
	if got := get("pg_data/empty = file.txt"); got.Kind != manifest.Whole || got.Path != dir+"pg_data/empty = file.txt" {
		t.Errorf("without bundles an empty file is stored as %+v", got)
	}
}

func TestValidate(t *testing.T) {
	m := sample(t)
	for _, f := range []manifest.File{{Name: "pg_data/a", Size: 1, RepoSize: 1}, {Name: "pg_data/b", Size: 1, Checksum: sumA}} {
		if err := m.Files.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	const first = "manifest validation failed:\nmissing checksum for file 'pg_data/a'"
	if err := m.ValidateChecksums(); errs.CodeOf(err) != errs.Format || err.Error() != first {
		t.Errorf("error is %v", err)
	}
	if err := m.Validate(); errs.CodeOf(err) != errs.Format || err.Error() != first+"\nrepo size must be > 0 for file 'pg_data/b'" {
		t.Errorf("error is %v", err)
	}
	for i := range 200 {
		if err := m.Files.Add(manifest.File{Name: fmt.Sprint("pg_data/a", i), Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Validate(); !strings.HasSuffix(err.Error(), "\n302 more") {
		t.Errorf("error is %v", err)
	}
}

func TestSetLabel(t *testing.T) {
	m, next := sample(t), &manifest.Manifest{}
	next.SetLabel(nextLabel, m)
	if next.Type != format.Incr || next.Prior != incrLabel || !slices.Equal(next.References, []format.Label{fullLabel, incrLabel, nextLabel}) {
		t.Errorf("made %+v", next)
	}
	next.SetLabel(fullLabel, nil)
	if next.Type != format.Full || next.Prior != "" || !slices.Equal(next.References, []format.Label{fullLabel}) {
		t.Errorf("made %+v", next)
	}
}

// TestOldManifest reads one without a list of references, options that came later, and
// the type of compression.
func TestOldManifest(t *testing.T) {
	s := string(write(t, sample(t)))
	for _, line := range []string{"backup-reference", "option-compress-type", "option-compress-level", "option-checksum-page"} {
		at := strings.Index(s, "\n"+line+"=")
		s = s[:at] + s[at+1+strings.Index(s[at+1:], "\n"):]
	}
	m := parse(t, sign(s))
	if !slices.Equal(m.References, []format.Label{fullLabel, incrLabel}) || m.Options.CompressType != "gz" || m.Options.CompressExt() != ".gz" {
		t.Errorf("references %s, compression %s", m.References, m.Options.CompressType)
	}
	if m.Options.CompressLevel != nil || m.Options.ChecksumPage != nil {
		t.Error("options appeared from nowhere")
	}
}

func TestUnknownIsKept(t *testing.T) {
	s := string(write(t, sample(t)))
	for _, change := range [][2]string{
		{"[backup:db]", "[backup:aaa]\nk=[1, 2]\n\n[backup:db]"},
		{"backup-type=\"incr\"\n", "backup-type=\"incr\"\nbackup-zeal=\"x\"\n"},
		{"option-online=true\n", "option-online=true\noption-other={\"a\": 1}\n"},
		{`"path":"/ts",`, `"path":"/ts","price":null,`},
		{`"db-last-system-id":4}`, `"db-last-system-id":4,"zeal":1}`},
		{`"timestamp":50`, `"timestamp":50,"zeal":[1,{"a":2}]`},
		{`"bni":1,"bno":10,`, `"bic":9,"bni":1,"bno":10,`}, // means nothing without bi
		{`"destination":"/ts"`, `"destination":"/ts","mode":"x"`},
		{"pg_data/base={}", `pg_data/base={"zeal":true}`},
		{"mode=\"0600\"\n", "mode=\"0600\"\nother=1\n"},
	} {
		if !strings.Contains(s, change[0]) {
			t.Fatalf("nothing to change: %s", change[0])
		}
		s = strings.Replace(s, change[0], change[1], 1)
	}
	want := sign(s)
	m, err := manifest.Read(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if got := write(t, m); !bytes.Equal(got, want) {
		t.Errorf("wrote\n%s\nwant\n%s", got, want)
	}
}

// Files that come in no order, many more than are kept together, come out in order, without those
// removed, and a stream gives the same as the text.
func TestManyFiles(t *testing.T) {
	const n = 10_000
	m := sample(t)
	had := m.Files.Len()
	names := map[string]int64{}
	for i := range n {
		at := (i*7919 + 13) % n
		f := manifest.File{Name: fmt.Sprintf("pg_data/base/%d", 100+at), Size: int64(at), RepoSize: int64(at), Timestamp: 1, Checksum: manifest.SHA1{1}}
		f.Mode = 0o600
		if err := m.Files.Add(f); err != nil {
			t.Fatal(err)
		}
		names[f.Name] = f.Size
		if i%1000 == 999 { // sorts, and removes of what is sorted
			gone := fmt.Sprintf("pg_data/base/%d", 100+at)
			if !m.Files.Remove(gone) || m.Files.Remove(gone) {
				t.Fatalf("%s was not there once", gone)
			}
			delete(names, gone)
		}
	}
	check := func(what string, m *manifest.Manifest) {
		t.Helper()
		if got := m.Files.Len(); got != had+len(names) {
			t.Errorf("%s: %d files, want %d", what, got, had+len(names))
		}
		before, seen := "", 0
		for f := range m.Files.All() {
			if f.Name <= before {
				t.Fatalf("%s: '%s' comes after '%s'", what, f.Name, before)
			}
			before = f.Name
			if size, added := names[f.Name]; added {
				seen++
				if got, found := m.Files.Find(f.Name); f.Size != size || !found || got.Size != size {
					t.Errorf("%s: %s is %+v, found %+v", what, f.Name, f, got)
				}
			}
		}
		if seen != len(names) {
			t.Errorf("%s: %d files, want %d", what, seen, len(names))
		}
	}
	check("added", m)
	text := write(t, m)
	check("written", m)
	check("parsed", parse(t, text))
	read, err := manifest.Read(iotest.HalfReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	check("read", read)
	if got := write(t, read); !bytes.Equal(got, text) {
		t.Error("what was read comes out changed")
	}
	broken := errors.New("broken")
	if _, err := manifest.Read(io.MultiReader(bytes.NewReader(text[:len(text)/2]), iotest.ErrReader(broken))); err != broken {
		t.Errorf("a stream that breaks: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	was := string(write(t, sample(t)))
	file := func(name string) [2]string {
		return [2]string{"[target:file]\n", "[target:file]\n" + name + "={\"size\":0,\"timestamp\":1}\n"}
	}
	path := func(name string) [2]string { return [2]string{"[target:path]\n", "[target:path]\n" + name + "={}\n"} }
	link := func(name string) [2]string {
		return [2]string{"[target:link]\n", "[target:link]\n" + name + "={\"destination\":\"/x\"}\n"}
	}
	target := func(name, value string) [2]string {
		return [2]string{"[backup:target]\n", "[backup:target]\n" + name + "=" + value + "\n"}
	}
	for name, test := range map[string]struct {
		change  [2]string
		message string
		code    errs.Code
	}{
		"absolute file":             {file("/etc/passwd"), "file '/etc/passwd' is not a valid name", errs.Format},
		"file above":                {file("pg_data/../x"), "file 'pg_data/../x' is not a valid name", errs.Format},
		"file far above":            {file("pg_data/base/../../../x"), "is not a valid name", errs.Format},
		"file dot":                  {file("pg_data/./x"), "is not a valid name", errs.Format},
		"file called dot":           {file("pg_data/."), "is not a valid name", errs.Format},
		"file called dots":          {file("pg_data/.."), "is not a valid name", errs.Format},
		"file empty element":        {file("pg_data//x"), "is not a valid name", errs.Format},
		"file ends in slash":        {file("pg_data/x/"), "is not a valid name", errs.Format},
		"file beside pg_data":       {file("pg_data2/x"), "file 'pg_data2/x' is not a valid name", errs.Format},
		"file in bundle":            {file("bundle/1"), "file 'bundle/1' is not a valid name", errs.Format},
		"file at top":               {file("x"), "is not a valid name", errs.Format},
		"file pg_data":              {file("pg_data"), "file 'pg_data' is not a valid name", errs.Format},
		"file in pg_tblspc":         {file("pg_tblspc/x"), "is not a valid name", errs.Format},
		"file in tablespace":        {file("pg_tblspc/16384/x"), "is not a valid name", errs.Format},
		"file in other tablespace":  {file("pg_tblspc/1/PG/x"), "file 'pg_tblspc/1/PG/x' belongs to no target", errs.Format},
		"file in odd tablespace":    {file("pg_tblspc/016384/PG_15_202209061/x"), "is not a valid name", errs.Format},
		"file with NUL":             {file("pg_data/a\x00b"), "null character", errs.Format},
		"file in no directory":      {file("pg_data/none/x"), "is in the directory 'pg_data/none', which is not among the paths", errs.Format},
		"file below a file":         {file("pg_data/PG_VERSION/x"), "which is not among the paths", errs.Format},
		"file is a path":            {file("pg_data/base"), "file 'pg_data/base' has the name of a path", errs.Format},
		"file is a link":            {file("pg_data/pg_tblspc/16384"), "file 'pg_data/pg_tblspc/16384' has the name of a link", errs.Format},
		"file is a linked path":     {file("pg_data/log"), "file 'pg_data/log' has the name of a", errs.Format},
		"file below a tablespace's": {file("pg_data/pg_tblspc/16384/x"), "which is not among the paths", errs.Format},
		"file twice":                {file("pg_data/PG_VERSION"), "file 'pg_data/PG_VERSION' is there twice", errs.Format},
		"path above":                {path("pg_data/.."), "path 'pg_data/..' is not a valid name", errs.Format},
		"path absolute":             {path("/etc"), "path '/etc' is not a valid name", errs.Format},
		"path elsewhere":            {path("etc"), "path 'etc' is not a valid name", errs.Format},
		"path in no directory":      {path("pg_data/x/y"), "path 'pg_data/x/y' is in the directory 'pg_data/x'", errs.Format},
		"path of no target":         {path("pg_tblspc/5"), "path 'pg_tblspc/5' belongs to no target", errs.Format},
		"path is a link":            {path("pg_data/pg_tblspc/16384"), "link 'pg_data/pg_tblspc/16384' has the name of a path", errs.Format},
		"path is a link to a file":  {path("pg_data/pg_hba.conf"), "link 'pg_data/pg_hba.conf' has the name of a path", errs.Format},
		"path twice":                {path("pg_data"), "path 'pg_data' is there twice", errs.Format},
		"link elsewhere":            {link("pg_tblspc/x"), "link 'pg_tblspc/x' is not a valid name", errs.Format},
		"link above":                {link("pg_data/../x"), "link 'pg_data/../x' is not a valid name", errs.Format},
		"link without target":       {link("pg_data/x"), "link 'pg_data/x' has no target", errs.Format},
		"link in no directory":      {link("pg_data/y/x"), "link 'pg_data/y/x' is in the directory", errs.Format},
		"link twice":                {link("pg_data/log"), "link 'pg_data/log' is there twice", errs.Format},
		"link to nothing":           {[2]string{`"destination":"../log"`, `"destination":""`}, "link 'pg_data/log' has the invalid destination ''", errs.Format},
		"target without link":       {target("pg_data/odd", `{"path":"/x","type":"link"}`), "target 'pg_data/odd' has no link", errs.Format},
		"target above":              {target("pg_data/../x", `{"path":"/x","type":"link"}`), "target 'pg_data/../x' is not a valid name", errs.Format},
		"target elsewhere":          {target("etc", `{"path":"/x","type":"link"}`), "target 'etc' is not a valid name", errs.Format},
		"target of odd tablespace":  {target("pg_tblspc/x", `{"path":"/x","type":"link"}`), "target 'pg_tblspc/x' is not a valid name", errs.Format},
		"target without id":         {target("pg_tblspc/7", `{"path":"/x","type":"link"}`), "target 'pg_tblspc/7' has the tablespace id 0", errs.Format},
		"target with other id":      {[2]string{`"tablespace-id":"16384"`, `"tablespace-id":"16385"`}, "has the tablespace id 16385", errs.Format},
		"target with odd id":        {[2]string{`"tablespace-id":"16384"`, `"tablespace-id":"-1"`}, "'-1' is not the id of a tablespace", errs.Format},
		"target of other type":      {[2]string{`"path":"/ts","tablespace-id":"16384","tablespace-name":"ts","type":"link"`, `"path":"/ts","tablespace-id":"16384","tablespace-name":"ts","type":"path"`}, "target is of type 'path'", errs.Format},
		"target file is a path":     {[2]string{`"file":"hba"`, `"file":"../hba"`}, "has the invalid file '../hba'", errs.Format},
		"target file is dots":       {[2]string{`"file":"hba"`, `"file":".."`}, "has the invalid file '..'", errs.Format},
		"target relative":           {[2]string{`pg_data={"path":"/pg"`, `pg_data={"path":"pg"`}, "target 'pg_data' has the invalid path 'pg'", errs.Format},
		"no target pg_data":         {[2]string{`pg_data={"path":"/pg","type":"path"}` + "\n", ""}, "manifest has no target 'pg_data'", errs.Format},
		"no path pg_data":           {[2]string{"[target:path]\npg_data={}\n", "[target:path]\n"}, "target 'pg_data' has no path", errs.Format},
		"no path of tablespace":     {[2]string{"\npg_tblspc/16384={}\n", "\n"}, "target 'pg_tblspc/16384' has no path", errs.Format},
		"database twice":            {[2]string{"template0=", "a=b="}, "database 'a=b' is there twice", errs.Format},
		"database without oid":      {[2]string{`{"db-id":5,`, `{`}, "not found", errs.JSONFormat},
		"reference above":           {[2]string{`"reference":"20260101-000000F"`, `"reference":"../../x"`}, "'../../x' is not a backup label", errs.Format},
		"reference not listed":      {[2]string{`"reference":"20260101-000000F"`, `"reference":"20250101-000000F"`}, "files refer to the backup '20250101-000000F'", errs.Format},
		"label above":               {[2]string{`backup-label="`, `backup-label="../`}, "is not a backup label", errs.Format},
		"label of other type":       {[2]string{`backup-type="incr"`, `backup-type="full"`}, "has the type 'full'", errs.Format},
		"no label":                  {[2]string{`backup-label="20260101-000000F_20260102-000000I"` + "\n", ""}, "manifest has no valid label", errs.Format},
		"prior above":               {[2]string{`backup-prior="`, `backup-prior="../`}, "is not a backup label", errs.Format},
		"no prior":                  {[2]string{`backup-prior="20260101-000000F"` + "\n", ""}, "has no valid prior", errs.Format},
		"list does not end with it": {[2]string{`backup-reference="20260101-000000F,20260101-000000F_20260102-000000I"`, `backup-reference="20260101-000000F"`}, "do not end with it", errs.Format},
		"list has one twice":        {[2]string{`backup-reference="20260101-000000F,`, `backup-reference="20260101-000000F,20260101-000000F,`}, "twice", errs.Format},
		"list has no label":         {[2]string{`backup-reference="20260101-000000F,`, `backup-reference=",`}, "'' is not a backup label", errs.Format},
		"version":                   {[2]string{`db-version="15"`, `db-version="15/.."`}, "'15/..' is not a version of PostgreSQL", errs.Format},
		"compression":               {[2]string{`compress-type="zst"`, `compress-type="../x"`}, "invalid compression type '../x'", errs.Format},
		"mode too large":            {[2]string{`"mode":"4644"`, `"mode":"10000"`}, "'10000' is not a mode", errs.Format},
		"mode not octal":            {[2]string{`"mode":"4644"`, `"mode":"0x1f"`}, "'0x1f' is not a mode", errs.Format},
		"no default mode":           {[2]string{"mode=\"0600\"\n", ""}, "a file has no mode", errs.Format},
		"no default path mode":      {[2]string{"mode=\"0700\"\n", ""}, "path 'pg_data' has no mode", errs.Format},
		"owner true":                {[2]string{`"user":false`, `"user":true`}, "owner bool must be false", errs.Format},
		"negative size":             {[2]string{`"size":3,`, `"size":-3,`}, "invalid number", errs.JSONFormat},
		"huge size":                 {[2]string{`"size":3,`, `"size":9223372036854775808,`}, "out of range", errs.JSONFormat},
		"no size":                   {[2]string{`"size":3,`, ``}, "missing size for file 'pg_data/PG_VERSION'", errs.Format},
		"no timestamp":              {[2]string{`"szo":5,"timestamp":40`, `"szo":5`}, "missing timestamp for file 'pg_data/PG_VERSION'", errs.Format},
		"negative repo size":        {[2]string{`"repo-size":20`, `"repo-size":-20`}, "invalid number", errs.JSONFormat},
		"bundle 0":                  {[2]string{`"bni":1`, `"bni":0`}, "0 where a number above it is needed", errs.Format},
		"offset beyond":             {[2]string{`"bno":110`, `"bno":9223372036854775807`}, "offset beyond any bundle", errs.Format},
		"block size 0":              {[2]string{`"bi":2`, `"bi":0`}, "0 where a number above it is needed", errs.Format},
		"block checksum too large":  {[2]string{`"bic":7`, `"bic":17`}, "17 is not the size of a block checksum", errs.Format},
		"map too large":             {[2]string{`"bim":25`, `"bim":301`}, "file 'pg_data/base/1/1' has a block map larger than what is stored", errs.Format},
		"checksum too short":        {[2]string{`"checksum":"00`, `"checksum":"`}, "invalid checksum", errs.Format},
		"checksum not hex":          {[2]string{`"checksum":"00`, `"checksum":"zz`}, "invalid checksum", errs.Format},
		"page range":                {[2]string{`[7,9]`, `[9,7]`}, "invalid range of pages [9,7]", errs.Format},
		"page range of three":       {[2]string{`[7,9]`, `[7,8,9]`}, "invalid range of pages", errs.Format},
		"page not a number":         {[2]string{`[7,9]`, `"7"`}, "invalid number", errs.JSONFormat},
		"annotation not a string":   {[2]string{`"why":"test"`, `"why":1`}, "expected string", errs.JSONFormat},
		"keys out of order":         {[2]string{`"szo":5,"timestamp":40`, `"timestamp":40,"szo":5`}, "not in ascending order", errs.JSONFormat},
		"row not an object":         {[2]string{`pg_data/odd={"mode":"2750","user":false}`, `pg_data/odd=1`}, "expected object", errs.JSONFormat},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(was, test.change[0]) {
				t.Fatalf("nothing to change: %s", test.change[0])
			}
			m, err := manifest.Read(bytes.NewReader(sign(strings.Replace(was, test.change[0], test.change[1], 1))))
			if m != nil || errs.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.message) {
				t.Errorf("error is %v (%v)", err, errs.CodeOf(err))
			}
		})
	}
	if _, err := manifest.Read(strings.NewReader(strings.Replace(was, `"size":3`, `"size":4`, 1))); errs.CodeOf(err) != errs.Checksum {
		t.Errorf("a changed file gives %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, spoil := range map[string]func(m *manifest.Manifest) error{
		"line feed in a name": func(m *manifest.Manifest) error { return m.Files.Add(manifest.File{Name: "pg_data/a\nb"}) },
		"line feed in a database": func(m *manifest.Manifest) error {
			m.Databases.Add(manifest.Database{Name: "a\nb"})
			return nil
		},
		"no compression type": func(m *manifest.Manifest) error { m.Options.CompressType = ""; return nil },
		"file outside":        func(m *manifest.Manifest) error { return m.Files.Add(manifest.File{Name: "pg_data/../x"}) },
	} {
		t.Run(name, func(t *testing.T) {
			m := sample(t)
			if err := spoil(m); err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := m.Write(&b); errs.CodeOf(err) != errs.Format || b.Len() > 0 {
				t.Errorf("error %v, wrote %d bytes", err, b.Len())
			}
		})
	}
}

func TestCheckLinks(t *testing.T) {
	for name, test := range map[string]struct {
		targets []manifest.Target
		message string
	}{
		"apart": {[]manifest.Target{{Name: "pg_data/a", Path: "/x/a"}, {Name: "pg_data/b", Path: "/x/ab"}, {Name: "pg_data/c", Path: "../../x/c"},
			{Name: "pg_data/f", Path: "/x", File: "f"}, {Name: "pg_data/g", Path: "/x", File: "g"}}, ""},
		"into PGDATA": {[]manifest.Target{{Name: "pg_data/a", Path: "/srv/pg/b"}}, "link 'a' destination '/srv/pg/b' is in PGDATA"},
		"relative into PGDATA": {[]manifest.Target{{Name: "pg_data/a/b", Path: "../c"}},
			"link 'a/b' destination '/srv/pg/c' is in PGDATA"},
		"same directory": {[]manifest.Target{{Name: "pg_data/a", Path: "/x"}, {Name: "pg_tblspc/5", Path: "/x/"}},
			"link 'pg_tblspc/5' (/x) destination is the same directory as link 'a' (/x)"},
		"same file": {[]manifest.Target{{Name: "pg_data/a", Path: "/x", File: "f"}, {Name: "pg_data/b", Path: "/x", File: "f"}},
			"link 'b' (/x/f) destination is the same file as link 'a' (/x/f)"},
		"file in a linked directory": {[]manifest.Target{{Name: "pg_data/a", Path: "/x"}, {Name: "pg_data/b", Path: "/x", File: "f"}},
			"link 'b' (/x) destination is the same directory as link 'a' (/x)"},
		"below": {[]manifest.Target{{Name: "pg_data/a", Path: "/x/y"}, {Name: "pg_data/b", Path: "/x"}},
			"link 'a' (/x/y) destination is a subdirectory of link 'b' (/x)"},
		"above": {[]manifest.Target{{Name: "pg_data/a", Path: "/x"}, {Name: "pg_data/b", Path: "/x/y"}},
			"link 'b' (/x/y) destination is a subdirectory of link 'a' (/x)"},
	} {
		t.Run(name, func(t *testing.T) {
			var m manifest.Manifest
			m.Targets.Add(manifest.Target{Name: "pg_data", Path: "/srv/pg"})
			for _, target := range test.targets {
				m.Targets.Add(target)
			}
			switch err := m.CheckLinks(); {
			case test.message == "" && err != nil,
				test.message != "" && (errs.CodeOf(err) != errs.LinkDestination || err.Error() != test.message):
				t.Errorf("error is %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(write(f, sample(f)))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := manifest.Read(bytes.NewReader(sign(string(text))))
		if err != nil {
			return
		}
		once := write(t, m)
		again := parse(t, once)
		if twice := write(t, again); !bytes.Equal(once, twice) {
			t.Fatalf("from\n%q\nto\n%q", once, twice)
		}
		var files [2][]manifest.File
		for i, m := range []*manifest.Manifest{m, again} {
			_ = m.CheckLinks()
			for f := range m.Files.All() {
				files[i] = append(files[i], f)
				if s := m.Stored("s", f); strings.Contains(s.Path, "/../") {
					t.Fatalf("%q is stored outside: %q", f.Name, s.Path)
				}
			}
		}
		if !reflect.DeepEqual(files[0], files[1]) || !reflect.DeepEqual(m.Paths.All(), again.Paths.All()) ||
			!reflect.DeepEqual(m.Links.All(), again.Links.All()) || !reflect.DeepEqual(m.Targets.All(), again.Targets.All()) {
			t.Fatalf("entries changed from\n%q\nto\n%q", text, once)
		}
	})
}
