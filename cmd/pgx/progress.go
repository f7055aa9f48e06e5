package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/pgx-backup/pgx/internal/lock"
	"github.com/pgx-backup/pgx/internal/logging"
	"github.com/pgx-backup/pgx/internal/progress"
)

// bar is a line at the bottom of a terminal that says how far a command is. Log lines
// are written through it, so that they appear above. Away from a terminal it is only the writer.
type bar struct {
	mu    sync.Mutex
	out   *os.File
	shown bool
	show  bool
	begun time.Time
	last  time.Time
	now   func() time.Time
}

// redraw is how often the line may change.
const redraw = 100 * time.Millisecond

func newBar(out *os.File, now func() time.Time) *bar {
	return &bar{out: out, show: term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb", now: now}
}

var _ io.Writer = (*bar)(nil)

// Write writes log lines.
func (b *bar) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	return b.out.Write(p)
}

func (b *bar) clear() {
	if b.shown {
		fmt.Fprint(b.out, "\r\x1b[K")
		b.shown = false
	}
}

// update draws the line; files and bytes are what is done of all.
func (b *bar) update(what string, files, allFiles int, bytes, allBytes int64) {
	b.draw(files >= allFiles, func(taken time.Duration, width int) string {
		return line(what, files, allFiles, bytes, allBytes, taken, width)
	})
}

// steps is update for what is done in steps that have no size.
func (b *bar) steps(what string, done, all int) {
	b.draw(false, func(_ time.Duration, width int) string {
		return gauge(what, float64(done)/float64(max(all, 1)), fmt.Sprintf(" %d/%d", done, all), width)
	})
}

// draw draws what text gives, unless that was done a moment ago and this is not the last.
func (b *bar) draw(last bool, text func(taken time.Duration, width int) string) {
	if !b.show {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.begun.IsZero() {
		b.begun = now
	}
	if now.Sub(b.last) < redraw && !last {
		return
	}
	b.last = now
	width, _, err := term.GetSize(int(b.out.Fd()))
	if err != nil {
		width = 80
	}
	b.clear()
	fmt.Fprint(b.out, text(now.Sub(b.begun), width))
	b.shown = true
}

// toLock gives what writes into the lock file how far a command is, for info, as often as the line is drawn: it takes longer
// than a small file. A full disk there is no reason to end the command.
func (a *app) toLock(l *lock.Lock, typ lock.Type, repo int) func(progress.State) {
	var last time.Time
	return func(p progress.State) {
		if now := a.now(); now.Sub(last) >= redraw || p.BytesDone >= p.Bytes {
			last = now
			_ = l.SetProgress(typ, repo, p.BytesDone, p.Bytes)
		}
	}
}

// end takes the line away.
func (b *bar) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
}

// line is what update draws: a bar, bytes, files, rate and the time left.
func line(what string, files, allFiles int, bytes, allBytes int64, taken time.Duration, width int) string {
	done := 1.0
	if allBytes > 0 {
		done = min(float64(bytes)/float64(allBytes), 1)
	}
	left := ""
	rate := 0.0
	if taken > 0 {
		rate = float64(bytes) / taken.Seconds()
	}
	if rate > 0 && taken >= time.Second {
		left = ", " + (time.Duration(float64(allBytes-bytes)/rate) * time.Second).Round(time.Second).String() + " left"
	}
	text := fmt.Sprintf(" %3.0f%% %s/%s, %d/%d files, %s/s%s", done*100, logging.Size(bytes), logging.Size(allBytes),
		files, allFiles, logging.Size(int64(rate)), left)
	return gauge(what, done, text, width)
}

// gauge is a bar that is filled as far as done, 0 to 1, before text.
func gauge(what string, done float64, text string, width int) string {
	room := width - len(what) - len(text) - 4
	if room < 5 {
		s := what + text
		return s[:min(len(s), max(width-1, 0))]
	}
	room = min(room, 40)
	full := int(done * float64(room))
	return fmt.Sprintf("%s [%s%s]%s", what, strings.Repeat("#", full), strings.Repeat(" ", room-full), text)
}
