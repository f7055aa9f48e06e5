package spare_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/spare"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestListGivesWhatWasUsedLast(t *testing.T) {
	var l spare.List[string]
	if v, found := l.Take(); found {
		t.Fatalf("an empty list has %q", v)
	}
	l.Put("a")
	l.Put("b")
	for _, want := range []string{"b", "a", "new", "new"} {
		if got := l.Make(func() string { return "new" }); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestListMakesNoMoreThanNeeded: one user at a time needs one, wherever it runs; a sync.Pool would make one for
// each processor.
func TestListMakesNoMoreThanNeeded(t *testing.T) {
	var l spare.List[*int]
	var turn sync.Mutex
	var working sync.WaitGroup
	made := 0
	for range 8 {
		working.Go(func() {
			for range 200 {
				turn.Lock()
				v := l.Make(func() *int { made++; return new(int) })
				runtime.Gosched()
				l.Put(v)
				turn.Unlock()
			}
		})
	}
	working.Wait()
	if made > 1+collections(t) {
		t.Errorf("%d were made for one user", made)
	}
}

func collections(t *testing.T) int {
	t.Helper()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.NumGC)
}

func TestListLetsGoOfWhatIsNotNeeded(t *testing.T) {
	l, gone := new(spare.List[*[64]byte]), make(chan int, 3)
	for i := range 3 {
		v := new([64]byte)
		runtime.AddCleanup(v, func(i int) { gone <- i }, i)
		l.Put(v)
	}
	// The last is needed all the time, the others are not.
	seen := map[int]bool{}
	for end := time.Now().Add(time.Minute); len(seen) < 2; {
		v, found := l.Take()
		if !found || time.Now().After(end) {
			t.Fatalf("gone are %v, want 0 and 1; the last is there: %t", seen, found)
		}
		runtime.GC()
		l.Put(v)
		select {
		case i := <-gone:
			seen[i] = true
		default:
		}
	}
	if _, found := l.Take(); !found || seen[2] {
		t.Errorf("gone are %v, want 0 and 1", seen)
	}
}
