package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/errs"
)

func TestCodeOf(t *testing.T) {
	own := errs.New(errs.Checksum, "bad")
	for _, test := range []struct {
		err  error
		want errs.Code
	}{
		{nil, 0},
		{own, errs.Checksum},
		{fmt.Errorf("while reading: %w", own), errs.Checksum},
		{errs.Wrap(own, "while reading"), errs.Checksum},
		{errs.WrapAs(errs.FileRead, own, "while reading"), errs.Checksum},
		{errs.WrapAs(errs.FileRead, syscall.EIO, "while reading"), errs.FileRead},
		{errs.WrapAs(errs.FileRead, context.Canceled, "while reading"), errs.Term},
		{errors.Join(errors.New("other"), own), errs.Checksum},
		{context.Canceled, errs.Term},
		{fs.ErrNotExist, errs.FileMissing},
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, errs.FileOpen},
		{syscall.ENOSPC, errs.FileWrite},
		{errors.New("anything"), errs.Unknown},
	} {
		if got := errs.CodeOf(test.err); got != test.want {
			t.Errorf("CodeOf(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

func TestHints(t *testing.T) {
	err := errs.WithHint(errs.WithHint(errs.New(errs.Config, "no %s", "database"), "is it %s?", "up"), "look")
	err = errs.Wrap(err, "check")
	if got, want := err.Error(), "check: no database\nHINT: is it up?\nHINT: look"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := errs.Message(err); got != "check: no database" {
		t.Errorf("message is %q", got)
	}
	// What the standard library wraps around keeps its place before the hints.
	outer := fmt.Errorf("outer: %w", err)
	if got := errs.Message(outer); got != "outer: check: no database" {
		t.Errorf("message is %q", got)
	}
	if got := errs.Hints(outer); !slices.Equal(got, []string{"is it up?", "look"}) {
		t.Errorf("hints are %q", got)
	}
	for _, nothing := range []error{errs.Wrap(nil, "x"), errs.WrapAs(errs.Config, nil, "x"), errs.WithHint(nil, "x")} {
		if nothing != nil {
			t.Errorf("%v out of nothing", nothing)
		}
	}
}

func TestNames(t *testing.T) {
	for code, want := range map[errs.Code]string{
		errs.Checksum: "ChecksumError", errs.DbConnect: "DbConnectError", errs.JSONFormat: "JsonFormatError", 7: "UnknownError",
	} {
		if got := code.String(); got != want {
			t.Errorf("%d is %s, want %s", code, got, want)
		}
	}
}

func TestWire(t *testing.T) {
	sent := errs.WithHint(errs.Wrap(errs.New(errs.FileMissing, "'a' is gone: %w", fs.ErrNotExist), "backup"), "look")
	got := errs.UnmarshalWire(errs.MarshalWire(sent))
	if errs.CodeOf(got) != errs.FileMissing || got.Error() != sent.Error() {
		t.Errorf("%v became %v", sent, got)
	}
	for _, is := range []error{fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, errors.ErrUnsupported} {
		if errors.Is(got, is) != errors.Is(sent, is) {
			t.Errorf("%v: is %v only on one side", sent, is)
		}
		if got := errs.UnmarshalWire(errs.MarshalWire(errs.New(errs.FileOpen, "x: %w", is))); !errors.Is(got, is) {
			t.Errorf("%v is lost on the way", is)
		}
	}
	for _, bad := range []string{"", "{", "[]", `"x"`} {
		if err := errs.UnmarshalWire([]byte(bad)); errs.CodeOf(err) != errs.Protocol {
			t.Errorf("%q is %v", bad, err)
		}
	}
	if err := errs.UnmarshalWire([]byte(`{"code":1,"message":"odd"}`)); errs.CodeOf(err) != errs.Unknown {
		t.Errorf("a code of no error is %v", err)
	}
}

// FuzzUnmarshalWire: whatever comes from the other side is an error that can be logged and
// sent on.
func FuzzUnmarshalWire(f *testing.F) {
	f.Add(errs.MarshalWire(errs.WithHint(errs.New(errs.Config, "a"), "b")))
	f.Add([]byte(`{"code":-1,"hints":[""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := errs.UnmarshalWire(b)
		again := errs.UnmarshalWire(errs.MarshalWire(err))
		if again.Error() != err.Error() || errs.CodeOf(again) != errs.CodeOf(err) {
			t.Errorf("%q: %v became %v", b, err, again)
		}
	})
}
