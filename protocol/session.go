package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

// grace is how long a call that was cancelled may take to answer before the session is
// given up.
const grace = 5 * time.Second

// Session is the client's end of a conversation. It is for one goroutine at a time: a call
// begins when the one before has been answered and its Stream closed.
type Session struct {
	*link
	c    Config
	role string
	busy bool // a Stream is open
	flow flow
}

// Open greets the server on t and says who is there. After an error t is closed. The session
// does not depend on ctx once it is open, and must be closed.
func Open(ctx context.Context, t Transport, h Hello, c Config) (*Session, error) {
	s := &Session{link: newLink(t, c), c: c, role: h.Role}
	h.Protocol, h.Program, h.Silence = Version, c.Program, c.Silence
	err := s.greet(ctx, h)
	if err != nil {
		s.fail(err) // a peer that goes on has nothing to add
		err = s.explain(ctx, err)
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *Session) greet(ctx context.Context, h Hello) error {
	b, err := json.Marshal(h)
	if err != nil {
		return errs.New(errs.Assert, "marshal hello: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) }) // a write may be waiting
	defer stop()
	// Why it cannot be sent is what the other side said last, or how it ended.
	_ = s.send(kindHello, b)
	f, err := s.answer(ctx, "greeting")
	if err != nil {
		return err
	}
	switch f.kind {
	case kindError:
		return s.remote(f)
	case kindWelcome:
		var w welcome
		if err := json.Unmarshal(f.payload, &w); err != nil {
			return errs.New(errs.Protocol, "'%s' sent a welcome that cannot be read: %w", s.peer, err)
		}
		if w.Protocol != Version {
			return versionError(s.peer, w.Protocol, s.c.Program)
		}
		s.agree(w.Silence)
		return nil
	}
	return s.unexpected(f)
}

// explain makes of an error of the link one for the operator.
func (s *Session) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errAfar):
		return err
	case err == io.EOF:
		err = &errs.Error{Code: errs.HostConnect, Message: "'" + s.peer + "' has ended the connection", Err: err}
	case errors.Is(err, errLost):
		message := "connection to '" + s.peer + "' was lost"
		if l := (*lostError)(nil); errors.As(err, &l) && !errors.Is(l.cause, io.ErrUnexpectedEOF) {
			message += ": " + l.cause.Error()
		}
		err = &errs.Error{Code: errs.HostConnect, Message: message, Err: err}
	case errs.CodeOf(err) != errs.Protocol:
		return err // complete
	}
	if e, ok := s.t.(Explainer); ok {
		err = e.Explain(err)
	}
	if errs.CodeOf(err) == errs.HostConnect && len(errs.Hints(err)) == 0 {
		err = errs.WithHint(err, "is the host up? the logs of sshd and of the system there may say what ended it")
	}
	return err
}

// remote gives the error of an error frame.
func (s *Session) remote(f frame) error {
	err := errs.UnmarshalWire(f.payload).(*errs.Error)
	err.Err = errors.Join(err.Err, errAfar)
	return errs.Wrap(err, "on '%s'", s.peer)
}

// errAfar is in an error that the server has sent. It has told all there is to tell.
var errAfar = errors.New("told by the server")

func (s *Session) unexpected(f frame) error {
	f.release()
	err := errs.New(errs.Protocol, "'%s' sent a frame of kind %d out of turn", s.peer, f.kind)
	s.fail(err)
	return err
}

// answer waits for a frame for as long as a call may go without one.
func (s *Session) answer(ctx context.Context, call string) (frame, error) {
	defer s.limit("no answer from '%s' to '%s' for %s", s.peer, call, s.c.Wait)()
	return s.next(ctx)
}

// limit ends the session with that error after Config.Wait, unless the function it gives is called
// before.
func (s *Session) limit(format string, args ...any) func() {
	if s.c.Wait <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(s.c.Wait, func() {
		s.fail(errs.WithHint(errs.New(errs.Protocol, format, args...),
			"the process there is alive but makes no progress; protocol-timeout says how long to wait"))
	})
	return func() { timer.Stop() }
}

// begin sends a request.
func (s *Session) begin(ctx context.Context, name string, args any, in, out bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.Err(); err != nil {
		return err
	}
	if s.busy {
		return errs.New(errs.Assert, "call '%s' while another is under way", name)
	}
	r := request{Call: name, In: in, Out: out}
	if args != nil {
		b, err := json.Marshal(args)
		if err != nil {
			return errs.New(errs.Assert, "marshal arguments of '%s': %w", name, err)
		}
		r.Args = b
	}
	b, err := json.Marshal(r)
	if err != nil {
		return errs.New(errs.Assert, "marshal request '%s': %w", name, err)
	}
	s.busy = true
	return s.write(ctx, kindRequest, b)
}

// write sends a frame. A peer that is well reads, whatever it does; one that does not when
// ctx has ended is given up after a while.
func (s *Session) write(ctx context.Context, k kind, payload []byte) error {
	written := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		select {
		case <-written:
		case <-time.After(grace):
			s.fail(ctx.Err())
		}
	})()
	defer s.limit("'%s' has taken no data for %s", s.peer, s.c.Wait)()
	err := s.send(k, payload)
	close(written)
	if err == nil {
		return nil
	}
	// That it cannot be written is a symptom. The reading side learns of the end too, and how
	// it came about.
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-s.done:
	case <-ctx.Done():
	case <-patience.C:
	}
	s.fail(err)
	return s.err()
}

// settle ends a call that is not wanted any more: it waits for the answer. A call that has
// none in time costs the session. err is what is returned.
func (s *Session) settle(cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace) // the caller's has ended
	defer cancel()
	if err := s.write(ctx, kindCancel, nil); err != nil {
		return cause
	}
	for {
		f, err := s.next(ctx)
		if err != nil {
			s.fail(errLost)
			return cause
		}
		f.release()
		if f.kind == kindResult || f.kind == kindError {
			s.busy = false
			return cause
		}
	}
}

// finish makes of the last frame of a call its result.
func (s *Session) finish(f frame, name string, result any) error {
	s.busy = false
	switch f.kind {
	case kindError:
		return s.remote(f)
	case kindResult:
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(f.payload, result); err != nil {
			err := errs.New(errs.Protocol, "result of '%s' from '%s' cannot be read: %w", name, s.peer, err)
			s.fail(err)
			return err
		}
		return nil
	}
	return s.unexpected(f)
}

// broken explains an error of the link in a call.
func (s *Session) broken(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil && s.err() == nil {
		return s.settle(ctx.Err())
	}
	s.fail(err)
	return errs.Wrap(s.explain(ctx, err), "%s", name)
}

// Call implements Caller.
func (s *Session) Call(ctx context.Context, name string, args, result any) error {
	if err := s.begin(ctx, name, args, false, false); err != nil {
		return s.failed(ctx, name, err)
	}
	f, err := s.answer(ctx, name)
	if err != nil {
		return s.broken(ctx, name, err)
	}
	return s.finish(f, name, result)
}

// failed is broken for an error of begin, which may have come before anything was sent.
func (s *Session) failed(ctx context.Context, name string, err error) error {
	if !s.busy || errs.CodeOf(err) == errs.Assert {
		return err
	}
	return s.broken(ctx, name, err)
}

// Send implements Caller.
func (s *Session) Send(ctx context.Context, name string, args any, src io.Reader, result any) error {
	if err := s.begin(ctx, name, args, true, false); err != nil {
		return s.failed(ctx, name, err)
	}
	early, err := s.deliver(ctx, name, src)
	switch {
	case err != nil:
		return err
	case early != nil:
		return s.finish(*early, name, result)
	}
	for {
		f, err := s.answer(ctx, name)
		if err != nil {
			return s.broken(ctx, name, err)
		}
		if !s.flow.heard(f, s.since()) {
			return s.finish(f, name, result)
		}
	}
}

// deliver sends the data of a call, and its end. When the server answers before that, early is what
// it says.
func (s *Session) deliver(ctx context.Context, name string, src io.Reader) (early *frame, err error) {
	s.flow.reset()
	out := dataWriter{send: func(p []byte) error {
		for {
			f, ok, err := s.hear(ctx, name, s.flow.full(len(p)))
			switch {
			case err != nil:
				return err
			case !ok:
				s.flow.add(len(p), s.since())
				return s.write(ctx, kindData, p)
			case !s.flow.heard(f, s.since()): // the server has seen enough
				early = &f
				return errEarly
			}
		}
	}}
	defer out.release()
	_, err = io.Copy(&out, src)
	if err == nil {
		err = out.flush()
	}
	if err == nil {
		err = ctx.Err() // what was cancelled must not be completed
	}
	switch {
	case early != nil:
		if err := s.write(ctx, kindCancel, nil); err != nil {
			return nil, s.broken(ctx, name, err)
		}
		return early, nil
	case err != nil && s.err() != nil: // the link has failed, not src
		return nil, s.broken(ctx, name, s.err())
	case err != nil:
		return nil, s.settle(err)
	}
	if err := s.write(ctx, kindEnd, nil); err != nil {
		return nil, s.broken(ctx, name, err)
	}
	return nil, nil
}

// hear gives a frame that is there already. When the sending cannot go on without one it
// waits.
func (s *Session) hear(ctx context.Context, call string, wait bool) (f frame, ok bool, err error) {
	if wait {
		f, err = s.answer(ctx, call)
		return f, err == nil, err
	}
	select {
	case f, ok = <-s.in:
		if !ok {
			err = s.why
		}
	default:
	}
	return f, ok, err
}

// since gives the time as flow takes it.
func (s *Session) since() time.Duration { return time.Duration(s.now()) }

// errEarly ends the sending because the answer is there.
var errEarly = errors.New("answered before the end of the data")

// Receive implements Caller.
func (s *Session) Receive(ctx context.Context, name string, args any) (*Stream, error) {
	if err := s.begin(ctx, name, args, false, true); err != nil {
		return nil, s.failed(ctx, name, err)
	}
	return s.stream(ctx, name)
}

// Exchange implements Caller.
func (s *Session) Exchange(ctx context.Context, name string, args any, src io.Reader) (*Stream, error) {
	if err := s.begin(ctx, name, args, true, true); err != nil {
		return nil, s.failed(ctx, name, err)
	}
	early, err := s.deliver(ctx, name, src)
	switch {
	case err != nil:
		return nil, err
	case early == nil:
		return s.stream(ctx, name)
	case early.kind == kindError:
		return nil, s.finish(*early, name, nil)
	}
	return nil, s.unexpected(*early) // data that was not asked for yet
}

// stream gives the data of a call that has been asked for.
func (s *Session) stream(ctx context.Context, name string) (*Stream, error) {
	st := &Stream{ctx: ctx, s: s, name: name}
	// What fails at once is the error of the call, not of the first Read.
	if err := st.fill(); err != nil && err != io.EOF {
		return nil, err
	}
	return st, nil
}

// Err says why the session cannot be used any more, nil as long as it can.
func (s *Session) Err() error {
	if err := s.err(); err != nil {
		return s.explain(context.Background(), err)
	}
	return nil
}

// Close ends the session. What the server was doing for it is cancelled.
func (s *Session) Close() error {
	s.close()
	return nil
}

// Stream is the data that a call gives. It must be closed.
type Stream struct {
	ctx    context.Context // of the call: a Stream is one
	s      *Session
	name   string
	f      frame // the data being read
	rest   []byte
	result json.RawMessage
	err    error
	give   func() // returns the session to where it was taken from
}

// fill gets the next data, if none is left.
func (st *Stream) fill() error {
	ended := false
	for len(st.rest) == 0 && st.err == nil {
		st.f.release()
		f, err := st.s.answer(st.ctx, st.name)
		switch {
		case err != nil:
			st.err = st.s.broken(st.ctx, st.name, err)
		case f.kind == kindData && !ended:
			st.f, st.rest = f, f.payload
		case f.kind == kindEnd && !ended:
			ended = true
		case !ended && st.s.flow.heard(f, st.s.since()): // of an Exchange: the last that was sent
		case f.kind == kindError:
			st.err = st.s.finish(f, st.name, nil)
		case f.kind == kindResult && ended:
			if st.err = st.s.finish(f, st.name, &st.result); st.err == nil {
				st.err = io.EOF
			}
		default: // a result without an end too: the data may have been cut
			st.err = st.s.unexpected(f)
		}
	}
	if len(st.rest) > 0 {
		return nil
	}
	return st.err
}

// Read gives what the call gives. io.EOF is its end: the server has said that this was
// all and that the call succeeded.
func (st *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := st.fill(); err != nil {
		return 0, err
	}
	n := copy(p, st.rest)
	st.rest = st.rest[n:]
	return n, nil
}

// WriteTo writes all that is left into w.
func (st *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := st.fill(); err != nil {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		n, err := w.Write(st.rest)
		st.rest = st.rest[n:]
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Result gives the result of the call, once Read has given io.EOF.
func (st *Stream) Result(v any) error {
	if st.err != io.EOF {
		return errs.New(errs.Assert, "result of '%s' asked for before the end of its data", st.name)
	}
	return errs.WrapAs(errs.Protocol, json.Unmarshal(st.result, v), "result of '%s' from '%s' cannot be read", st.name, st.s.peer)
}

// Close ends the call. What was not read is given up, which is no error.
func (st *Stream) Close() error {
	if st.s == nil {
		return nil
	}
	st.f.release()
	st.rest = nil
	if st.err == nil {
		st.err = st.s.settle(errs.New(errs.Assert, "read of '%s' after Close", st.name))
	}
	if st.give != nil {
		st.give()
	}
	st.s, st.give = nil, nil
	return nil
}
