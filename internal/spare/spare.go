// Package spare keeps what is large, takes time to make and can be used again, such as the state of an encoder.
package spare

import (
	"runtime"
	"slices"
	"sync"
)

// List keeps what nobody uses for the next who needs one. There are never more than were in use at once, on however
// many processors; a sync.Pool keeps one on each that its user has come by. What was not
// needed from one garbage collection to the next goes, so that a service does not hold for good what
// a busy hour took. The zero value is empty; a List is for several goroutines.
type List[T any] struct {
	mu      sync.Mutex
	all     []T  // the last one was used last, and is the next
	idle    int  // how many at the beginning of all were not needed since the last collection
	watched bool // the next collection is noticed
}

// Take gives the one that was used last, if there is one.
func (l *List[T]) Take() (v T, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.all) - 1
	if last < 0 {
		return v, false
	}
	v = l.all[last]
	l.all = slices.Delete(l.all, last, last+1)
	l.idle = min(l.idle, last)
	return v, true
}

// Put keeps v, which nobody uses any more.
func (l *List[T]) Put(v T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, v)
	l.watch()
}

// Make is Take, or what fresh gives if there is none.
func (l *List[T]) Make(fresh func() T) T {
	if v, found := l.Take(); found {
		return v
	}
	return fresh()
}

// watch notices the next garbage collection: it takes what nothing refers to.
func (l *List[T]) watch() {
	if l.watched {
		return
	}
	l.watched = true
	runtime.AddCleanup(new(*byte), (*List[T]).collected, l)
}

// collected lets go of what was not needed since the collection before.
func (l *List[T]) collected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.Delete(l.all, 0, l.idle)
	l.idle = len(l.all)
	l.watched = false
	if l.idle > 0 {
		l.watch()
	}
}
