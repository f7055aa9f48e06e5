package parallel_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/parallel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func numbers(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func TestEveryJobOnce(t *testing.T) {
	sum, busy := 0, make([]atomic.Int32, 3)
	err := parallel.Run(t.Context(), []int{0, 1, 2}, numbers(1000),
		func(_ context.Context, session, job int) (int, error) {
			if busy[session].Add(1) != 1 {
				t.Error("a session has two jobs at once")
			}
			defer busy[session].Add(-1)
			return job * 2, nil
		},
		func(job, out int) error {
			if out != job*2 {
				t.Errorf("job %d came back with %d", job, out)
			}
			sum += job
			return nil
		})
	if err != nil || sum != 999*1000/2 {
		t.Fatalf("sum %d, error %v", sum, err)
	}
}

func TestFirstErrorEndsIt(t *testing.T) {
	broken := errors.New("broken")
	var started atomic.Int32
	err := parallel.Run(t.Context(), []int{0, 1, 2, 3}, numbers(1<<40),
		func(ctx context.Context, _, job int) (int, error) {
			started.Add(1)
			if job == 5 {
				return 0, broken
			}
			return job, nil
		},
		func(int, int) error { return nil })
	if !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

func TestErrorOfDoneCancelsJobs(t *testing.T) {
	full := errors.New("full")
	waiting := make(chan struct{})
	err := parallel.Run(t.Context(), []int{0, 1}, slices.Values([]int{0, 1}),
		func(ctx context.Context, _, job int) (int, error) {
			if job == 0 {
				<-waiting
				return 0, nil
			}
			close(waiting)
			<-ctx.Done() // only the error of done ends this
			return 0, ctx.Err()
		},
		func(int, int) error { return full })
	if !errors.Is(err, full) {
		t.Fatalf("got %v", err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := parallel.Run(ctx, []int{0}, numbers(10),
		func(context.Context, int, int) (int, error) { cancel(); return 0, nil },
		func(int, int) error { t.Error("a result after the end"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestNothingToDo(t *testing.T) {
	err := parallel.Run(t.Context(), []int{0, 1}, numbers(0),
		func(context.Context, int, int) (int, error) { return 0, errors.New("no job") },
		func(int, int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoSessions(t *testing.T) {
	do := func(context.Context, int, int) (int, error) { return 0, nil }
	done := func(int, int) error { return nil }
	if err := parallel.Run(t.Context(), nil, numbers(0), do, done); err != nil {
		t.Errorf("no jobs: %v", err)
	}
	if err := parallel.Run(t.Context(), nil, numbers(1), do, done); errs.CodeOf(err) != errs.Assert {
		t.Errorf("a job: %v", err)
	}
}

// Sessions take jobs of their own lane only, and an error in one lane ends the others.
func TestLanes(t *testing.T) {
	lanes := []parallel.Lane[int, int]{{[]int{0}, numbers(10)}, {[]int{1, 2}, numbers(300)}, {nil, numbers(0)}}
	done := [2]int{}
	err := parallel.RunLanes(t.Context(), lanes, func(_ context.Context, session, _ int) (int, error) { return min(session, 1), nil },
		func(_, lane int) error { done[lane]++; return nil })
	if err != nil || done != [2]int{10, 300} {
		t.Errorf("%v jobs are done, error %v", done, err)
	}
	broken := errors.New("broken")
	err = parallel.RunLanes(t.Context(), lanes, func(ctx context.Context, session, _ int) (int, error) {
		if session == 0 {
			return 0, broken
		}
		<-ctx.Done()
		return 0, ctx.Err()
	}, func(int, int) error { return nil })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	lanes[2].Jobs = numbers(1)
	if err := parallel.RunLanes(t.Context(), lanes, func(context.Context, int, int) (int, error) { return 0, nil },
		func(int, int) error { return nil }); errs.CodeOf(err) != errs.Assert {
		t.Errorf("a job without a session: %v", err)
	}
}
