package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A client that may do nothing must not be able to fill the disk with lines about it.
const (
	rationTime  = time.Minute
	rationLines = 20
)

// ration logs rationLines lines in rationTime and counts the others.
type ration struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	since  time.Time
	lines  int
	missed int
}

// say logs one line, or counts it.
func (r *ration) say(ctx context.Context, level slog.Level, message string) {
	r.mu.Lock()
	now := r.now()
	if now.Sub(r.since) >= rationTime {
		r.since, r.lines = now, 0
	}
	r.lines++
	missed := r.missed
	if r.lines > rationLines {
		r.missed++
	} else {
		r.missed = 0
	}
	over := r.lines > rationLines
	r.mu.Unlock()
	if over {
		return
	}
	if missed > 0 {
		message += fmt.Sprintf(" (and %d refusals before it that were not logged)", missed)
	}
	r.log.Log(ctx, level, message)
}

// logRefusal logs why somebody could not log in. Keys that were refused are what an
// operator looks for; the rest is noise of scanners.
func (s *Server) logRefusal(ctx context.Context, from net.Addr, err error) {
	if ctx.Err() != nil {
		return // it was us
	}
	var (
		failed *ssh.ServerAuthError
		keys   []string
	)
	if errors.As(err, &failed) {
		for _, e := range failed.Errors {
			var unknown unknownKey
			if errors.As(e, &unknown) {
				keys = append(keys, unknown.fingerprint)
			}
		}
	}
	prefix := "connection from '" + from.String() + "' refused: "
	switch {
	case len(keys) > 0:
		s.refused.say(ctx, slog.LevelInfo, prefix+"not granted anything: key "+strings.Join(keys, ", "))
	case failed != nil:
		s.config.Log.DebugContext(ctx, prefix+"it proved no key")
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.config.Log.DebugContext(ctx, prefix+"it did not log in within "+s.config.LoginTime.String())
	default:
		s.config.Log.DebugContext(ctx, prefix+shown(err.Error(), 200))
	}
}
