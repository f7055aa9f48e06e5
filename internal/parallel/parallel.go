// Package parallel lets several sessions work off one queue of jobs, while everything that
// follows from a result happens on one goroutine.
package parallel

import (
	"context"
	"iter"
	"sync"

	"github.com/pgx-backup/pgx/internal/errs"
)

// A Lane is a queue of jobs with the sessions that work it off, and no others.
type Lane[S, J any] struct {
	Sessions []S
	Jobs     iter.Seq[J]
}

// Run drains jobs through the sessions: each session does one job at a time, as soon as
// it is free. done runs on the caller's goroutine, one result at a time in the order they
// come, so it may update what it likes without a lock.
//
// The first error, of do, of done or of ctx, ends it: jobs under way see their context
// cancelled, no further one begins, results that come after are dropped, and that error is
// returned when every session is idle again. jobs is read from one goroutine
// at a time and not after Run has returned. Jobs without a session to do them are an Assert error.
func Run[S, J, R any](ctx context.Context, sessions []S, jobs iter.Seq[J],
	do func(context.Context, S, J) (R, error), done func(J, R) error) error {

	return RunLanes(ctx, []Lane[S, J]{{sessions, jobs}}, do, done)
}

// RunLanes is Run for several lanes at once. The first error ends all of them, and done is
// called for one result of any lane at a time.
func RunLanes[S, J, R any](ctx context.Context, lanes []Lane[S, J],
	do func(context.Context, S, J) (R, error), done func(J, R) error) error {

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	type result struct {
		job J
		out R
		err error
	}
	results := make(chan result)
	var working sync.WaitGroup
	nexts := make([]func() (J, bool), len(lanes))
	for i, l := range lanes {
		next, stop := iter.Pull(l.Jobs)
		defer stop()
		nexts[i] = next
		if len(l.Sessions) > 0 {
			continue
		}
		if _, ok := next(); ok { // what is not done must not look like success
			return errs.New(errs.Assert, "there are jobs and no session to do them")
		}
	}
	for i, l := range lanes {
		next := nexts[i]
		take := new(sync.Mutex) // guards next
		for _, s := range l.Sessions {
			working.Go(func() {
				for ctx.Err() == nil {
					take.Lock()
					job, ok := next()
					take.Unlock()
					if !ok {
						return
					}
					out, err := do(ctx, s, job)
					results <- result{job, out, err}
					if err != nil {
						return
					}
				}
			})
		}
	}
	go func() {
		working.Wait()
		close(results)
	}()

	var first error
	for r := range results { // to the end, so that no session is left waiting
		if first != nil {
			continue
		}
		err := r.err
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = done(r.job, r.out)
		}
		if err != nil {
			first = err
			cancel(err)
		}
	}
	if first == nil {
		first = context.Cause(ctx)
	}
	return first
}
