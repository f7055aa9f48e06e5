package protocol

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

// link is what both ends have: frames in and out, and the watch over the peer.
type link struct {
	sender
	t       Transport
	peer    string
	silence time.Duration

	in   chan frame    // closed by the reading goroutine when it ends, after why is set
	done chan struct{} // closed by fail

	reading atomic.Int64  // since when a Read is waiting, nanoseconds since born; 0: none is
	sent    atomic.Int64  // when the last frame went out, as reading
	every   atomic.Int64  // how often something goes out, nanoseconds
	agreed  chan struct{} // every has changed
	born    time.Time

	pinging atomic.Bool // a ping is on its way

	once    sync.Once
	why     error
	working sync.WaitGroup
}

func newLink(t Transport, c Config) *link {
	l := &link{
		sender: sender{out: t}, t: t, peer: c.Peer, silence: c.Silence, born: time.Now(),
		in: make(chan frame, 2), done: make(chan struct{}), agreed: make(chan struct{}, 1),
	}
	l.agree(c.Silence)
	l.working.Go(l.read)
	l.working.Go(l.watch)
	return l
}

// minPing bounds how often a peer can have a ping sent.
const minPing = 20 * time.Millisecond

// agree takes the peer's measure of silence into account.
func (l *link) agree(theirs time.Duration) {
	if theirs <= 0 || theirs > l.silence {
		theirs = l.silence
	}
	l.every.Store(int64(max(theirs/4, minPing)))
	select {
	case l.agreed <- struct{}{}:
	default:
	}
}

// now is a time that is never 0 and does not jump.
func (l *link) now() int64 { return int64(time.Since(l.born)) + 1 }

// fail ends the link for one reason, the first.
func (l *link) fail(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.done)
		_ = l.t.Close() // what it says is no news
	})
}

// err says why the link has ended, nil while it has not.
func (l *link) err() error {
	select {
	case <-l.done:
		return l.why
	default:
		return nil
	}
}

// close ends the link and waits for its goroutines.
func (l *link) close() {
	l.fail(errLost)
	l.working.Wait()
}

// Read notes when it waits: only then is the peer silent. An end that does not read because
// its own consumer is slow would hear nothing either.
func (l *link) Read(p []byte) (int, error) {
	l.reading.Store(l.now())
	n, err := l.t.Read(p)
	l.reading.Store(0)
	return n, err
}

// read hands on what comes, except signs of life.
func (l *link) read() {
	defer close(l.in)
	in := bufio.NewReaderSize(l, 64<<10)
	for {
		f, err := readFrame(in)
		if err != nil {
			var odd *foreign
			switch {
			case errors.As(err, &odd):
				err = odd.explain(l.peer)
			case err != io.EOF:
				err = lost(err)
			}
			l.fail(err)
			return
		}
		if f.kind == kindPing {
			continue
		}
		select {
		case l.in <- f:
		case <-l.done:
			f.release()
			return
		}
	}
}

// watch sends a ping when nothing else was sent, and ends the link when nothing is heard.
func (l *link) watch() {
	for {
		pause := time.NewTimer(time.Duration(l.every.Load()) / 2)
		select {
		case <-l.done:
			pause.Stop()
			return
		case <-l.agreed:
			pause.Stop()
		case <-pause.C:
		}
		now := l.now()
		if since := l.reading.Load(); since != 0 && now-since > int64(l.silence) {
			l.fail(errs.WithHint(errs.New(errs.HostConnect, "no sign of life from '%s' for %s", l.peer, l.silence),
				"the host or the network is down, or the process there has been stopped; io-timeout says how long to wait"))
			return
		}
		// One that waits for the peer to read needs no ping: it is not the silent one. It
		// must not keep the watch from its work either.
		if now-l.sent.Load() >= l.every.Load()/2 && l.mu.TryLock() {
			l.mu.Unlock()
			l.ping()
		}
	}
}

// ping sends a sign of life without waiting for it to be taken: the peer may have
// stopped reading, and the watch goes on.
func (l *link) ping() {
	if !l.pinging.CompareAndSwap(false, true) {
		return
	}
	l.working.Go(func() {
		defer l.pinging.Store(false)
		_ = l.send(kindPing, nil) // an error shows in the reading
	})
}

// send writes a frame.
func (l *link) send(k kind, payload []byte) error {
	err := l.frame(k, payload)
	l.sent.Store(l.now())
	return err
}

// next gives the next frame. When the link has ended that is its error, io.EOF if the
// peer ended it between two frames.
func (l *link) next(ctx context.Context) (frame, error) {
	select {
	case f, ok := <-l.in:
		if !ok {
			return frame{}, l.why
		}
		return f, nil
	case <-ctx.Done():
		return frame{}, ctx.Err()
	}
}
