// Package errs holds the errors an operator can meet: a code that becomes the
// exit code and says what kind of trouble it is, a message that names the file,
// host or option, and hints that say what to do next. Such an error keeps all three
// when it is wrapped and when it crosses from one host to another.
//
// The codes and their names are pgBackRest's (build/error.yaml), because
// scripts and monitoring match on them.
package errs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
)

// Code is the kind of an error and the exit code of a command that ends with it.
type Code int

// The codes of pgBackRest (build/error.yaml).
const (
	Assert                Code = 25
	Checksum              Code = 26
	Config                Code = 27
	FileInvalid           Code = 28
	Format                Code = 29
	CommandRequired       Code = 30
	OptionInvalid         Code = 31
	OptionInvalidValue    Code = 32
	OptionRequired        Code = 37
	PgRunning             Code = 38
	Protocol              Code = 39
	PathNotEmpty          Code = 40
	FileOpen              Code = 41
	FileRead              Code = 42
	ParamRequired         Code = 43
	ArchiveMismatch       Code = 44
	ArchiveDuplicate      Code = 45
	VersionNotSupported   Code = 46
	PathCreate            Code = 47
	CommandInvalid        Code = 48
	HostConnect           Code = 49
	LockAcquire           Code = 50
	BackupMismatch        Code = 51
	FileSync              Code = 52
	PathOpen              Code = 53
	PathSync              Code = 54
	FileMissing           Code = 55
	DbConnect             Code = 56
	DbQuery               Code = 57
	DbMismatch            Code = 58
	FileRemove            Code = 60
	PathRemove            Code = 61
	Stop                  Code = 62
	Term                  Code = 63
	FileWrite             Code = 64
	FeatureNotSupported   Code = 67
	ArchiveCommandInvalid Code = 68
	LinkExpected          Code = 69
	LinkDestination       Code = 70
	HostInvalid           Code = 72
	PathMissing           Code = 73
	FileMove              Code = 74
	BackupSetInvalid      Code = 75
	TablespaceMap         Code = 76
	LinkMap               Code = 78
	FileClose             Code = 79
	DbMissing             Code = 80
	DbInvalid             Code = 81
	ArchiveTimeout        Code = 82
	FileMode              Code = 83
	ArchiveDisabled       Code = 87
	FileOwner             Code = 88
	UserMissing           Code = 89
	FileExists            Code = 93
	Memory                Code = 94
	Crypto                Code = 95
	ParamInvalid          Code = 96
	PathClose             Code = 97
	FileInfo              Code = 98
	JSONFormat            Code = 99
	Kernel                Code = 100
	Service               Code = 101
	Execute               Code = 102
	RepoInvalid           Code = 103
	Command               Code = 104
	Access                Code = 105
	Clock                 Code = 106
	Runtime               Code = 122
	Unhandled             Code = 124
	Unknown               Code = 125
)

var names = map[Code]string{
	Assert: "Assert", Checksum: "Checksum", Config: "Config", FileInvalid: "FileInvalid", Format: "Format",
	CommandRequired: "CommandRequired", OptionInvalid: "OptionInvalid", OptionInvalidValue: "OptionInvalidValue",
	OptionRequired: "OptionRequired", PgRunning: "PgRunning", Protocol: "Protocol", PathNotEmpty: "PathNotEmpty",
	FileOpen: "FileOpen", FileRead: "FileRead", ParamRequired: "ParamRequired", ArchiveMismatch: "ArchiveMismatch",
	ArchiveDuplicate: "ArchiveDuplicate", VersionNotSupported: "VersionNotSupported", PathCreate: "PathCreate",
	CommandInvalid: "CommandInvalid", HostConnect: "HostConnect", LockAcquire: "LockAcquire",
	BackupMismatch: "BackupMismatch", FileSync: "FileSync", PathOpen: "PathOpen", PathSync: "PathSync",
	FileMissing: "FileMissing", DbConnect: "DbConnect", DbQuery: "DbQuery", DbMismatch: "DbMismatch",
	FileRemove: "FileRemove", PathRemove: "PathRemove", Stop: "Stop", Term: "Term", FileWrite: "FileWrite",
	FeatureNotSupported: "FeatureNotSupported", ArchiveCommandInvalid: "ArchiveCommandInvalid",
	LinkExpected: "LinkExpected", LinkDestination: "LinkDestination", HostInvalid: "HostInvalid",
	PathMissing: "PathMissing", FileMove: "FileMove", BackupSetInvalid: "BackupSetInvalid",
	TablespaceMap: "TablespaceMap", LinkMap: "LinkMap", FileClose: "FileClose", DbMissing: "DbMissing",
	DbInvalid: "DbInvalid", ArchiveTimeout: "ArchiveTimeout", FileMode: "FileMode",
	ArchiveDisabled: "ArchiveDisabled", FileOwner: "FileOwner", UserMissing: "UserMissing",
	FileExists: "FileExists", Memory: "Memory", Crypto: "Crypto", ParamInvalid: "ParamInvalid",
	PathClose: "PathClose", FileInfo: "FileInfo", JSONFormat: "JsonFormat", Kernel: "Kernel", Service: "Service",
	Execute: "Execute", RepoInvalid: "RepoInvalid", Command: "Command", Access: "Access", Clock: "Clock",
	Runtime: "Runtime", Unhandled: "Unhandled", Unknown: "Unknown",
}

// String gives pgBackRest's name of the code, such as "ChecksumError"; monitoring
// finds it in "repo1: [ChecksumError] …".
func (c Code) String() string {
	if n, ok := names[c]; ok {
		return n + "Error"
	}
	return "UnknownError"
}

// Error is an error with its code and hints. Message holds no hint; Err, when
// set, is the cause and already part of Message.
type Error struct {
	Code    Code
	Message string
	Hints   []string
	Err     error
}

// Error gives the message with each hint on a line of its own, as it is logged.
func (e *Error) Error() string {
	if len(e.Hints) == 0 {
		return e.Message
	}
	return e.Message + "\nHINT: " + strings.Join(e.Hints, "\nHINT: ")
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error from a code and a message. A %w in format keeps the cause.
func New(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Wrap says what was being done when err came: "doing: message". The code and the
// hints of err stay. It gives nil for nil.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	doing := fmt.Sprintf(format, args...)
	return &Error{Code: CodeOf(err), Message: doing + ": " + Message(err), Hints: Hints(err), Err: err}
}

// WrapAs is Wrap with a code for an err that has none of its own, such as one of
// the operating system. An Error keeps its code.
func WrapAs(code Code, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	wrapped := Wrap(err, format, args...).(*Error)
	var own *Error
	if !errors.As(err, &own) && !errors.Is(err, context.Canceled) {
		wrapped.Code = code
	}
	return wrapped
}

// WithHint adds a hint: what the operator should look at or do. It gives nil for nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	hints := append(append([]string(nil), Hints(err)...), fmt.Sprintf(format, args...))
	return &Error{Code: CodeOf(err), Message: Message(err), Hints: hints, Err: err}
}

// CodeOf gives the code of err: that of the outermost Error in its chain, else one
// derived from what the operating system said, else Unknown. It gives 0 for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	var own *Error
	switch {
	case errors.As(err, &own):
		return own.Code
	case errors.Is(err, context.Canceled):
		return Term
	case errors.Is(err, fs.ErrNotExist):
		return FileMissing
	case errors.Is(err, fs.ErrPermission):
		return FileOpen
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return FileWrite
	}
	return Unknown
}

// Message gives the message of err without its hints.
func Message(err error) string {
	var own *Error
	if errors.As(err, &own) {
		// What was wrapped around the Error by fmt.Errorf is kept; only the hints go.
		if hinted := own.Error(); hinted != own.Message {
			return strings.Replace(err.Error(), hinted, own.Message, 1)
		}
	}
	return err.Error()
}

// Hints gives the hints of err, nil when there are none.
func Hints(err error) []string {
	var own *Error
	if errors.As(err, &own) {
		return own.Hints
	}
	return nil
}

type wire struct {
	Code    Code     `json:"code"`
	Message string   `json:"message"`
	Hints   []string `json:"hints,omitempty"`
	Is      []string `json:"is,omitempty"` // names of sentinels
}

// sentinels are the errors of the standard library that callers ask for with errors.Is, by
// their names on the wire.
var sentinels = []struct {
	name string
	err  error
}{
	{"not-exist", fs.ErrNotExist},
	{"exist", fs.ErrExist},
	{"permission", fs.ErrPermission},
	{"unsupported", errors.ErrUnsupported},
}

// MarshalWire gives the form of err that crosses from one process to another: code,
// message and hints as a JSON object, and whether it is fs.ErrNotExist, fs.ErrExist,
// fs.ErrPermission or errors.ErrUnsupported.
func MarshalWire(err error) []byte {
	w := wire{Code: CodeOf(err), Message: Message(err), Hints: Hints(err)}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			w.Is = append(w.Is, s.name)
		}
	}
	b, merr := json.Marshal(w)
	if merr != nil { // strings and numbers always marshal
		panic(merr)
	}
	return b
}

// UnmarshalWire reads what MarshalWire wrote. What is not such an object is a
// Protocol error.
func UnmarshalWire(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return New(Protocol, "error of the other side cannot be read: %w", err)
	}
	if _, known := names[w.Code]; !known {
		w.Code = Unknown
	}
	e := &Error{Code: w.Code, Message: w.Message, Hints: w.Hints}
	var is []error
	for _, s := range sentinels {
		if slices.Contains(w.Is, s.name) {
			is = append(is, s.err)
		}
	}
	e.Err = errors.Join(is...)
	return e
}
