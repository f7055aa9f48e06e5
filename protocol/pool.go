package protocol

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Pool keeps sessions in one role to one peer, opens them as they are needed and lends
// each to one caller at a time.
type Pool struct {
	open func(context.Context) (*Session, error)
	free chan struct{} // holds a token for each session that may be lent

	mu     sync.Mutex
	idle   []*Session
	closed bool
}

// NewPool makes a pool of at most max sessions, opened by open.
func NewPool(max int, open func(context.Context) (*Session, error)) *Pool {
	p := &Pool{open: open, free: make(chan struct{}, max)}
	for range max {
		p.free <- struct{}{}
	}
	return p
}

// Take lends a session, as soon as there is one. It must be given back.
func (p *Pool) Take(ctx context.Context) (*Session, error) {
	select {
	case <-p.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s, err := p.session(ctx)
	if err != nil {
		p.free <- struct{}{}
	}
	return s, err
}

func (p *Pool) session(ctx context.Context) (*Session, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, errs.New(errs.Assert, "session asked of a pool that is closed")
		}
		if len(p.idle) == 0 {
			p.mu.Unlock()
			return p.open(ctx)
		}
		s := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		if s.err() == nil {
			return s, nil
		}
		_ = s.Close() // it ended while nobody needed it
	}
}

// Give takes a session back. One that cannot be used any more is closed.
func (p *Pool) Give(s *Session) {
	p.mu.Lock()
	keep := !p.closed && s.err() == nil && !s.busy
	if keep {
		p.idle = append(p.idle, s)
	}
	p.mu.Unlock()
	if !keep {
		_ = s.Close()
	}
	p.free <- struct{}{}
}

// Close ends the sessions that are idle, and the others when they are given back.
func (p *Pool) Close() error {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	var all error
	for _, s := range idle {
		all = errors.Join(all, s.Close())
	}
	return all
}

// Call implements Caller.
func (p *Pool) Call(ctx context.Context, name string, args, result any) error {
	s, err := p.Take(ctx)
	if err != nil {
		return err
	}
	defer p.Give(s)
	return s.Call(ctx, name, args, result)
}

// Send implements Caller.
func (p *Pool) Send(ctx context.Context, name string, args any, src io.Reader, result any) error {
	s, err := p.Take(ctx)
	if err != nil {
		return err
	}
	defer p.Give(s)
	return s.Send(ctx, name, args, src, result)
}

// Receive implements Caller. The session is lent until the Stream is closed.
func (p *Pool) Receive(ctx context.Context, name string, args any) (*Stream, error) {
	return p.stream(ctx, func(s *Session) (*Stream, error) { return s.Receive(ctx, name, args) })
}

// Exchange implements Caller. The session is lent until the Stream is closed.
func (p *Pool) Exchange(ctx context.Context, name string, args any, src io.Reader) (*Stream, error) {
	return p.stream(ctx, func(s *Session) (*Stream, error) { return s.Exchange(ctx, name, args, src) })
}

func (p *Pool) stream(ctx context.Context, call func(*Session) (*Stream, error)) (*Stream, error) {
	s, err := p.Take(ctx)
	if err != nil {
		return nil, err
	}
	st, err := call(s)
	if err != nil {
		p.Give(s)
		return nil, err
	}
	st.give = func() { p.Give(s) }
	return st, nil
}
