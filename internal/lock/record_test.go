package lock

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// FuzzReadRecord: a lock file may be anybody's. What is read can be written and reads
// the same, and never names a process group.
func FuzzReadRecord(f *testing.F) {
	for _, seed := range []string{
		`{"execId":"1-12345678","pctCplt":8888,"pid":1,"sz":3,"szCplt":1}`,
		`{"execId":"1-12345678","pid":77}`, `{"pid":-1}`, `{"pid":0}`, "", "{", `{"pid":1}garbage`, `[]`, `{"pid":1e400}`,
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "x.lock")
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readRecord(bytes.NewReader(b))
		if err != nil {
			return
		}
		if r.PID <= 0 {
			t.Fatalf("process %d", r.PID)
		}
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }() // nobody reads it after this
		if err := writeRecord(file, r); err != nil {
			t.Fatal(err)
		}
		again, err := readRecord(file)
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v, error %v", r, again, err)
		}
	})
}
