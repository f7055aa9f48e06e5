package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Service is what a server offers to a client in the role it has been accepted in.
type Service struct {
	// Calls holds what the role may call. Anything else is an Access error.
	Calls map[string]Handler

	// Close, if set, is called when the session has ended, whatever ended it. No call runs
	// then.
	Close func() error
}

// Handler does one call. ctx ends when the client cancels the call or is gone.
type Handler func(ctx context.Context, c *Call) (result any, err error)

// Call is one call on the server.
type Call struct {
	name string
	args json.RawMessage
	in   *input
	out  *dataWriter
}

// Decode reads the arguments of the call into v. A field that v does not have is an error,
// as is a missing or a further value.
func (c *Call) Decode(v any) error {
	d := json.NewDecoder(bytes.NewReader(c.args))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("more than one value")
	}
	if err != nil {
		return errs.New(errs.Protocol, "arguments of '%s' cannot be read: %w", c.name, err)
	}
	return nil
}

// In gives the data of the client. io.EOF is its end as the client said it; data that ends
// otherwise, as when the client cancels or is lost, is another error.
func (c *Call) In() io.Reader { return c.in }

// Out takes data for the client. It must not be used after the handler has returned.
func (c *Call) Out() io.Writer { return c.out }

// Serve answers the client on t until it leaves or ctx ends, and closes t. accept judges the
// Hello; its error goes to the client and comes back from Serve. To leave in the
// middle of a call is an error, between calls it is not.
func Serve(ctx context.Context, t Transport, c Config, accept func(context.Context, Hello) (Service, error)) (err error) {
	s := &server{link: newLink(t, c), c: c}
	defer s.close()
	// Calls end with the client. When ctx ends they do too, and the client is told; what does
	// not listen is cut off.
	work, cancel := context.WithCancelCause(ctx)
	s.working.Go(func() {
		<-s.done
		cancel(s.ended(s.why))
	})
	defer context.AfterFunc(ctx, func() {
		select {
		case <-s.done:
		case <-time.After(grace):
			s.fail(context.Cause(ctx))
		}
	})()

	h, err := s.hello(ctx)
	if err != nil {
		return s.refuse(err)
	}
	service, err := accept(work, h)
	if err != nil {
		return s.refuse(err)
	}
	if service.Close != nil {
		defer func() { err = errors.Join(err, service.Close()) }()
	}
	b, err := json.Marshal(welcome{Protocol: Version, Program: c.Program, Silence: c.Silence})
	if err != nil {
		return errs.New(errs.Assert, "marshal welcome: %w", err)
	}
	if err := s.send(kindWelcome, b); err != nil {
		return s.ended(err)
	}
	for {
		f, err := s.next(ctx)
		switch {
		case err == io.EOF:
			return nil
		case ctx.Err() != nil:
			return s.refuse(errs.New(errs.Term, "pgx is ending there: %w", context.Cause(ctx)))
		case err != nil:
			return s.ended(err)
		}
		switch f.kind {
		case kindCancel: // of a call that was answered meanwhile
		case kindRequest:
			if err := s.call(work, h.Role, service.Calls, f); err != nil {
				return s.ended(err)
			}
		default:
			f.release()
			return s.refuse(errs.New(errs.Protocol, "'%s' sent a frame of kind %d out of turn", s.peer, f.kind))
		}
	}
}

type server struct {
	*link
	c Config
}

func (s *server) hello(ctx context.Context) (Hello, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.silence, errs.New(errs.Protocol, "'%s' did not say who it is within %s", s.peer, s.silence))
	defer cancel()
	f, err := s.next(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Hello{}, err
	}
	var h Hello
	if f.kind != kindHello {
		f.release()
		return h, errs.New(errs.Protocol, "'%s' began with a frame of kind %d", s.peer, f.kind)
	}
	if err := json.Unmarshal(f.payload, &h); err != nil {
		return h, errs.New(errs.Protocol, "the greeting of '%s' cannot be read: %w", s.peer, err)
	}
	if h.Protocol != Version {
		return h, versionError(h.Program, h.Protocol, s.c.Program)
	}
	s.agree(h.Silence)
	return h, nil
}

// refuse tells the client why the session ends.
func (s *server) refuse(err error) error {
	if s.err() == nil {
		_ = s.send(kindError, wireError(err)) // it may not be there to hear it
	}
	return s.ended(err)
}

// ended gives the reason why a session ended early.
func (s *server) ended(err error) error {
	if err == io.EOF || errors.Is(err, errLost) {
		return &errs.Error{Code: errs.HostConnect, Message: fmt.Sprintf("'%s' is gone", s.peer), Err: err}
	}
	return err
}

// wireError is errs.MarshalWire, cut to what a frame takes.
func wireError(err error) []byte {
	b := errs.MarshalWire(err)
	if len(b) > maxControl {
		message := errs.Message(err)
		b = errs.MarshalWire(&errs.Error{Code: errs.CodeOf(err), Message: message[:min(len(message), maxControl/8)] + " ..."})
	}
	return b
}

// call does one call. An error ends the session; one of the handler does not.
func (s *server) call(ctx context.Context, role string, calls map[string]Handler, f frame) error {
	var r request
	if err := json.Unmarshal(f.payload, &r); err != nil {
		return s.refuse(errs.New(errs.Protocol, "a request of '%s' cannot be read: %w", s.peer, err))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in := newInput(r.In, s.taken)
	ended, heard := make(chan struct{}), make(chan struct{}) // the handler has returned; the listener knows
	var listening sync.WaitGroup
	var violation error
	listening.Go(func() {
		violation = s.listen(in, ended, cancel)
		close(heard)
		if violation == nil {
			violation = s.skip(in)
		}
	})

	out := &dataWriter{send: func(p []byte) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if !r.Out {
			return errs.New(errs.Assert, "call '%s' gives data that was not asked for", r.Call)
		}
		return s.send(kindData, p)
	}}
	result, err, crash := s.handle(ctx, role, calls, &Call{name: r.Call, args: r.Args, in: in, out: out})
	if err == nil {
		err = out.flush()
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = context.Cause(ctx) // says who has cancelled
	}
	out.release()
	close(ended)
	<-heard // after the answer the next request may come
	if crash != nil {
		err = errs.New(errs.Assert, "internal error in call '%s'", r.Call)
	}
	answered := s.answer(r, result, err)
	listening.Wait()
	return errors.Join(answered, violation, crash)
}

// handle runs the handler. One that panics is not trusted with another call.
func (s *server) handle(ctx context.Context, role string, calls map[string]Handler, c *Call) (result any, err, crash error) {
	h, known := calls[c.name]
	if !known {
		return nil, errs.New(errs.Access, "role '%s' may not call '%s'", role, c.name), nil
	}
	defer func() {
		if p := recover(); p != nil {
			crash = errs.New(errs.Assert, "call '%s' of '%s' panicked: %v\n%s", c.name, s.peer, p, debug.Stack())
		}
	}()
	result, err = h(ctx, c)
	return result, err, nil
}

// answer sends the result of a call, behind the end of its data, or its error.
func (s *server) answer(r request, result any, err error) error {
	var b []byte
	if err == nil {
		var merr error
		if b, merr = json.Marshal(result); merr != nil {
			err = errs.New(errs.Assert, "marshal result of '%s': %w", r.Call, merr)
		} else if len(b) > maxControl {
			err = errs.New(errs.Protocol, "result of '%s' is too large", r.Call)
		}
	}
	if err != nil {
		return s.send(kindError, wireError(err))
	}
	if r.Out {
		if err := s.send(kindEnd, nil); err != nil {
			return err
		}
	}
	return s.send(kindResult, b)
}

// listen takes what the client sends during a call, until the handler has returned.
func (s *server) listen(in *input, ended <-chan struct{}, cancel context.CancelCauseFunc) error {
	for {
		var f frame
		var ok bool
		select {
		case f, ok = <-s.in:
		case <-ended:
			return nil
		}
		switch {
		case !ok:
			why := s.ended(s.why)
			in.end(why)
			cancel(why)
			return nil
		case f.kind == kindData && in.open:
			select {
			case in.data <- f:
			case <-ended:
				f.release()
				return nil
			}
		case f.kind == kindEnd && in.open:
			in.end(io.EOF)
		case f.kind == kindCancel:
			why := errs.New(errs.Term, "the client has cancelled the call")
			in.end(why)
			cancel(why)
		default:
			err := s.outOfTurn(f)
			in.end(err)
			cancel(err)
			return err
		}
	}
}

// skip takes what is left of the client's data when the call has been answered before its end.
func (s *server) skip(in *input) error {
	for in.open {
		f, ok := <-s.in
		switch {
		case !ok:
			in.end(errLost)
		case f.kind == kindData:
			f.release()
		case f.kind == kindEnd, f.kind == kindCancel:
			in.end(io.EOF)
		default:
			return s.outOfTurn(f)
		}
	}
	return nil
}

func (s *server) outOfTurn(f frame) error {
	f.release()
	return errs.New(errs.Protocol, "'%s' sent a frame of kind %d in the middle of a call", s.peer, f.kind)
}

// input is the data that comes with a call.
type input struct {
	data chan frame
	open bool  // more may come; only the listener looks at it
	why  error // set before data is closed
	f    frame
	rest []byte

	tell   func(n int) // the client that n more bytes are taken
	untold int
}

func newInput(open bool, tell func(int)) *input {
	in := &input{data: make(chan frame), open: true, tell: tell}
	if !open {
		in.end(io.EOF)
	}
	return in
}

// end says that no more comes and why. Only the first counts.
func (in *input) end(why error) {
	if in.open {
		in.open, in.why = false, why
		close(in.data)
	}
}

// fill gets the next data, if none is left.
func (in *input) fill() error {
	for len(in.rest) == 0 {
		in.f.release()
		f, ok := <-in.data
		if !ok {
			return in.why
		}
		in.f, in.rest = f, f.payload
		if in.untold += len(f.payload); in.untold >= tellAfter {
			in.tell(in.untold)
			in.untold = 0
		}
	}
	return nil
}

func (in *input) Read(p []byte) (int, error) {
	if err := in.fill(); err != nil {
		return 0, err
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

func (in *input) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := in.fill(); err != nil {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		n, err := w.Write(in.rest)
		in.rest = in.rest[n:]
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}
