// Package protocol is a remote procedure call over one byte stream in each direction: an SSH
// channel, or the standard streams of a command that sshd started. It knows no call by
// name; what is offered is a Service, what a client may do is what the Service of its role
// holds.
//
// A frame is a length, a kind and a payload. The first of a client is its Hello, answered by a
// welcome or an error; then calls follow, one at a time: a request, data in either
// direction closed by an explicit end, and a result or an error. Both sides send a ping when
// they have had nothing to say for a while, so that one that hears nothing knows that the
// other is gone. docs/protocol.md is the specification.
package protocol

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Version is that of the protocol. Both ends must have the same.
const Version = 1

// Transport carries frames to the peer and back. Close makes a Read and a Write
// that are blocked return.
type Transport interface {
	io.Reader
	io.Writer
	Close() error
}

// An Explainer is a Transport that can say why it ended better than its Read could: by
// what the peer wrote to its standard error, or its exit status.
type Explainer interface {
	// Explain gives the error to report in place of err.
	Explain(err error) error
}

// Hello is what a client says first.
type Hello struct {
	Protocol int    `json:"protocol"` // set by Open
	Program  string `json:"program"`  // set by Open
	ExecID   string `json:"exec_id"`  // of the command, shared by all its sessions
	Command  string `json:"command"`  // that runs on the client, such as "backup"
	Role     string `json:"role"`     // in which it wants to call
	Stanza   string `json:"stanza"`   // which it is about, "" for none

	// Silence is set by Open: the client gives up when it hears nothing for that long.
	Silence time.Duration `json:"silence"` // nanoseconds

	// Args is what only the service understands.
	Args json.RawMessage `json:"args,omitempty"`
}

// welcome is the answer to a Hello that is accepted.
type welcome struct {
	Protocol int           `json:"protocol"`
	Program  string        `json:"program"`
	Silence  time.Duration `json:"silence"`
}

// request begins a call.
type request struct {
	Call string          `json:"call"`
	Args json.RawMessage `json:"args,omitempty"`
	In   bool            `json:"in,omitempty"`  // the client will send data
	Out  bool            `json:"out,omitempty"` // the client expects data
}

// Config is what both ends of a session need to know.
type Config struct {
	// Peer names the other end for messages: "postgres@db1:22".
	Peer string

	// Program names this one: "pgx 0.2.0".
	Program string

	// Silence is how long to hear nothing before the peer counts as gone. A ping goes out
	// four times as often, to both ends' measure. It must be positive.
	Silence time.Duration

	// Wait is how long a call of a client may go without an answer or data, while the peer is
	// alive. 0 is no limit.
	Wait time.Duration
}

// Caller makes calls. A Session is one, for one goroutine at a time, and a Pool is, for
// many.
type Caller interface {
	// Call makes a call without data. args and result are marshalled as JSON; a nil result
	// is not looked at.
	Call(ctx context.Context, name string, args, result any) error

	// Send makes a call that is given what src has, to its end. The answer may come before
	// all of it was read. When src fails the call is cancelled, and its error is returned.
	Send(ctx context.Context, name string, args any, src io.Reader, result any) error

	// Receive makes a call that gives data. The Stream must be closed.
	Receive(ctx context.Context, name string, args any) (*Stream, error)

	// Exchange makes a call that is given what src has, to its end, and only then gives data. When
	// src fails the call is cancelled, and its error is returned. The Stream must be closed.
	Exchange(ctx context.Context, name string, args any, src io.Reader) (*Stream, error)
}

var (
	_ Caller = (*Session)(nil)
	_ Caller = (*Pool)(nil)
)

// versionError says that the two ends do not understand each other.
func versionError(theirs string, their int, ours string) error {
	if len(theirs) > 64 || strings.ContainsFunc(theirs, func(r rune) bool { return !unicode.IsPrint(r) }) {
		theirs = "the other side" // it gets into the log
	}
	return errs.WithHint(errs.New(errs.Protocol, "'%s' speaks protocol %d, '%s' speaks %d", theirs, their, ours, Version),
		"install the same release of pgx on both hosts")
}
