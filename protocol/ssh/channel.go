package ssh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
)

const (
	// chunk is what goes between the channel and the goroutines that serve it: a data frame of
	// the protocol is written in one go.
	chunk = 256 << 10
	// keptErrors and keptOutput are how much is kept of the end of standard error and of the
	// beginning of standard output, to explain an error.
	keptErrors = 4 << 10
	keptOutput = 512
	// closeWait is how long Close waits for the command to end.
	closeWait = time.Second
	// explainWait is how long Explain waits for what the other side has still to say.
	explainWait = 2 * time.Second
)

// Channel is the standard input and output of a command. One goroutine may read while
// another writes.
//
// The library's own channel cannot be left while it reads or writes: a command that hangs
// would hold its caller. So goroutines do that, which Client.Close ends at the latest.
type Channel struct {
	c    *Client
	cn   *conn
	ch   ssh.Channel
	in   *io.PipeReader
	end  sync.Once
	shut chan struct{} // closed by Close

	writing sync.Mutex
	buf     []byte
	out     chan int   // how much of buf is to be written
	written chan error // that it has been

	ended    chan struct{} // closed when the other side has closed the session
	complete chan struct{} // closed when standard error has ended

	mu     sync.Mutex
	said   []byte // the end of standard error
	output []byte // the beginning of standard output
	status int    // exit status, -1 while it is not known
	signal string // that killed the command
	// The command ended by itself unless Close came first; then cut is what it
	// had said by then.
	byItself, closed bool
	cut              []byte
}

// start starts the command in a session of cn, which it gives back on error. An io.EOF
// means that the connection is gone, an *ssh.OpenChannelError that the session is refused.
func (c *Client) start(ctx context.Context, cn *conn) (*Channel, error) {
	type session struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	opened := make(chan session)
	running := c.spawn(func() {
		var s session
		var refused *ssh.OpenChannelError
		s.ch, s.reqs, s.err = cn.client.OpenChannel("session", nil)
		if s.err != nil && !errors.As(s.err, &refused) {
			s.err = io.EOF
		}
		if s.err == nil {
			ok, err := s.ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{c.host.Command}))
			switch {
			case err != nil:
				s.err = io.EOF
			case !ok:
				s.err = errs.WithHint(c.target().fail(stepStart, "the host refuses to run '%s'", c.host.Command),
					"sshd's log there says why")
			}
		}
		if s.err == nil {
			select {
			case opened <- s:
				return
			case <-ctx.Done():
			}
		}
		if s.ch != nil {
			_ = s.ch.Close() // it may be closed already
			defer ssh.DiscardRequests(s.reqs)
		}
		c.release(cn)
		if s.err != nil {
			select {
			case opened <- s:
			case <-ctx.Done():
			}
		}
	})
	if !running {
		c.release(cn)
		return nil, c.target().fail(stepStart, "%w", errClosed)
	}
	select {
	case s := <-opened:
		if s.err != nil {
			return nil, s.err
		}
		ch := &Channel{
			c: c, cn: cn, ch: s.ch, shut: make(chan struct{}), buf: make([]byte, chunk), out: make(chan int), written: make(chan error, 1),
			ended: make(chan struct{}), complete: make(chan struct{}), status: -1,
		}
		if !ch.serve(s.reqs) {
			_ = s.ch.Close() // the connection is being closed anyway
			c.release(cn)
			return nil, c.target().fail(stepStart, "%w", errClosed)
		}
		return ch, nil
	case <-ctx.Done():
		c.giveUp(cn)
		return nil, c.target().ended(ctx, stepStart, c.c.Timeout)
	}
}

// serve runs what the channel needs until the session has ended. It fails when the client is
// closed in the meantime.
func (ch *Channel) serve(reqs <-chan *ssh.Request) bool {
	in, to := io.Pipe()
	ch.in = in
	return ch.c.spawn(func() {
		var all sync.WaitGroup
		all.Go(func() { ch.receive(to) })
		all.Go(ch.send)
		all.Go(ch.listen)
		ch.watch(reqs)
		all.Wait()
	})
}

// receive moves standard output to the reader.
func (ch *Channel) receive(to *io.PipeWriter) {
	buf := make([]byte, chunk)
	for {
		n, err := ch.ch.Read(buf)
		if n > 0 {
			ch.keep(buf[:n])
			if _, err := to.Write(buf[:n]); err != nil {
				return // Close was called
			}
		}
		if err != nil {
			ch.mu.Lock()
			ch.byItself = !ch.closed
			ch.mu.Unlock()
			_ = to.CloseWithError(err) // gives no error
			return
		}
	}
}

// keep remembers the beginning of standard output.
func (ch *Channel) keep(p []byte) {
	if len(ch.output) >= keptOutput { // no one else writes to it
		return
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.output = append(ch.output, p[:min(len(p), keptOutput-len(ch.output))]...)
}

// send writes what Write has put into buf.
func (ch *Channel) send() {
	for {
		select {
		case n := <-ch.out:
			wire := ch.cn.client.wire
			wire.Hold()
			_, err := ch.ch.Write(ch.buf[:n])
			if rerr := wire.Release(); err == nil {
				err = rerr
			}
			ch.written <- err
		case <-ch.shut:
			return
		case <-ch.ended:
			return
		}
	}
}

// listen keeps the end of standard error.
func (ch *Channel) listen() {
	defer close(ch.complete)
	buf := make([]byte, keptErrors)
	for {
		n, err := ch.ch.Stderr().Read(buf)
		ch.mu.Lock()
		ch.said = append(ch.said, buf[:n]...)
		if over := len(ch.said) - keptErrors; over > 0 {
			ch.said = append(ch.said[:0], ch.said[over:]...)
		}
		ch.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// watch learns how the command ended.
func (ch *Channel) watch(reqs <-chan *ssh.Request) {
	for req := range reqs {
		ch.mu.Lock()
		switch req.Type {
		case "exit-status":
			if len(req.Payload) >= 4 {
				ch.status = int(binary.BigEndian.Uint32(req.Payload))
			}
		case "exit-signal":
			var s struct {
				Signal     string
				CoreDumped bool
				Error      string
				Lang       string
			}
			if ssh.Unmarshal(req.Payload, &s) == nil {
				ch.signal = printable(s.Signal)
			}
		}
		ch.mu.Unlock()
		if req.WantReply {
			_ = req.Reply(false, nil) // the connection may be gone
		}
	}
	_ = ch.ch.Close()   // the other side has
	ch.c.release(ch.cn) // before Close returns, so that the next Open finds it free
	close(ch.ended)
}

// Read reads from the standard output of the command.
func (ch *Channel) Read(p []byte) (int, error) { return ch.in.Read(p) }

// Write writes to the standard input of the command. When it returns, everything is on its way.
func (ch *Channel) Write(p []byte) (int, error) {
	ch.writing.Lock()
	defer ch.writing.Unlock()
	done := 0
	for {
		// buf is free: send has answered, or it will never be asked again.
		select {
		case <-ch.shut:
			return done, net.ErrClosed
		default:
		}
		n := copy(ch.buf, p[done:])
		select {
		case ch.out <- n:
		case <-ch.shut:
			return done, net.ErrClosed
		case <-ch.ended:
			return done, io.ErrClosedPipe
		}
		select {
		case err := <-ch.written:
			if errors.Is(err, io.EOF) { // what the library says when the other side has closed
				err = io.ErrClosedPipe
			}
			if err != nil {
				return done, err
			}
		case <-ch.shut:
			return done, net.ErrClosed
		}
		if done += n; done == len(p) {
			return done, nil
		}
	}
}

// Close ends the session: the command sees the end of its standard input, and Read and Write
// return. It waits a moment for the command to end, so that nothing is left there and
// the connection is free for the next session.
func (ch *Channel) Close() error {
	ch.end.Do(func() {
		ch.mu.Lock()
		ch.closed = true
		ch.cut = append([]byte(nil), ch.said...)
		ch.mu.Unlock()
		close(ch.shut)
		_ = ch.in.Close() // gives no error
		_ = ch.ch.Close() // it may be closed already
	})
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-ch.ended:
	case <-timer.C:
	}
	return nil
}

// Explain makes of an error met on the channel, such as an unexpected end, one that says what
// became of the command: what it said, how it ended, whether the connection is lost.
func (ch *Channel) Explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	ch.await()
	lost := false
	select {
	case <-ch.cn.lost:
		lost = true
	default:
	}
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.explain(err, lost)
}

// await waits until the other side has said all it has to say, for a while.
func (ch *Channel) await() {
	timer := time.NewTimer(explainWait)
	defer timer.Stop()
	for _, what := range []<-chan struct{}{ch.ended, ch.complete} {
		select {
		case <-what:
		case <-timer.C:
			return
		}
	}
	ch.mu.Lock()
	told := ch.status >= 0 || ch.signal != ""
	ch.mu.Unlock()
	if !told { // then the connection has ended, or will say so at once
		select {
		case <-ch.cn.lost:
		case <-timer.C:
		}
	}
}

// explain is Explain once everything is known. Channel.mu is held.
func (ch *Channel) explain(err error, lost bool) error {
	host, command := ch.c.target(), ch.c.host.Command
	said := ch.said
	if ch.closed && !ch.byItself {
		said = ch.cut // what came later is about our leaving
	}
	complaint, quote := firstLines(said), ""
	if complaint != "" {
		quote = ": it said '" + complaint + "'"
	} else if text := firstLines(ch.output); text != "" && isText(ch.output) {
		quote = ": it said '" + text + "'"
	}
	because := func(code errs.Code, message string, hints ...string) error {
		return &errs.Error{Code: code, Message: message, Hints: append(hints, errs.Hints(err)...), Err: err}
	}
	option := "option " + ch.c.host.Option + "-cmd"
	switch {
	case isPgBackRest(said) || isPgBackRest(ch.output):
		return because(errs.Protocol, host.label+": pgbackrest answered to '"+command+"'"+quote,
			"both ends must be pgx: install it there and name it by "+option+", or in the command that authorized_keys forces")
	case ch.status == 127 || ch.status == 1 && strings.Contains(strings.ToLower(string(said)), "command not found"):
		return because(errs.HostConnect, host.fail(stepStart, "there is no '%s' on '%s'%s", program(command), host.alias, quote).Message,
			"install pgx there, or name its path by "+option)
	case ch.status == 126:
		return because(errs.HostConnect, host.fail(stepStart, "'%s' cannot be run on '%s'%s", program(command), host.alias, quote).Message,
			"it must be a program that '"+host.user+"' may run; "+option+" names its path")
	case ch.byItself && ch.signal != "":
		return because(errs.HostConnect, host.label+": '"+command+"' was killed there by signal "+ch.signal+quote)
	case ch.byItself && ch.status == 0 && quote == "" && errs.CodeOf(err) == errs.Protocol:
		return err // a resident pgx refused, and its words are all there is to say
	case ch.byItself && ch.status >= 0:
		ended := fmt.Sprintf("%s: '%s' ended there with exit status %d%s", host.label, command, ch.status, quote)
		if strings.Contains(complaint, "ERROR: [") {
			return because(errs.HostConnect, ended, "pgx there goes by its own configuration; "+"option "+ch.c.host.Option+"-config says which file, if not the default one")
		}
		return because(errs.HostConnect, ended)
	case lost && (ch.byItself || !ch.closed):
		why := "the other side closed it"
		if !errors.Is(ch.cn.cause, io.EOF) {
			why = reason(ch.cn.cause)
		}
		if complaint != "" {
			why += "; '" + command + "' there had said '" + complaint + "'"
		}
		return because(errs.HostConnect, host.label+": connection lost: "+why,
			"is the host up? sshd's log there may say why it ended the connection")
	case complaint != "":
		return because(errs.CodeOf(err), errs.Message(err)+"; '"+command+"' there said '"+complaint+"'")
	}
	return err
}

// program is the first word of a command line.
func program(command string) string {
	if f := strings.Fields(command); len(f) > 0 {
		return f[0]
	}
	return command
}

// isPgBackRest recognises a line of its log and the greeting of its protocol. Lines of pgx look
// the same, but pgx knows the commands and options it is asked for.
func isPgBackRest(text []byte) bool {
	s := string(text)
	return strings.Contains(s, `"name":"pgBackRest"`) || strings.Contains(s, "pgBackRest 2.") ||
		strings.Contains(s, "[048]: invalid command") || strings.Contains(s, "[031]: invalid option '--role")
}

// isText says whether text is for people: frames of the protocol begin with a byte that no
// text has.
func isText(text []byte) bool {
	return !strings.ContainsFunc(string(text), func(r rune) bool { return r < ' ' && !unicode.IsSpace(r) && r != '\x1b' })
}

// firstLines gives the first lines of a text in one, as far as they can be shown.
func firstLines(text []byte) string {
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = printable(line); line != "" {
			lines = append(lines, line)
		}
		if len(lines) == 4 {
			break
		}
	}
	return strings.Join(lines, " / ")
}

// printable gives at most 300 characters of a text from elsewhere, and none that a terminal
// would act upon.
func printable(s string) string {
	var out strings.Builder
	n := 0
	for _, r := range strings.TrimSpace(s) {
		if n++; n > 300 {
			out.WriteString("…")
			break
		}
		switch {
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			out.WriteByte('?')
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
