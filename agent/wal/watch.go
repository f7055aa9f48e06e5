package wal

import "github.com/fsnotify/fsnotify"

// changes tells of what happens in directories. The zero value never does: who waits for
// something also looks from time to time.
type changes struct{ w *fsnotify.Watcher }

// watch begins to watch directories, as far as it can.
func watch(dirs ...string) changes {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return changes{}
	}
	for _, dir := range dirs {
		if err := w.Add(dir); err != nil {
			_ = w.Close()
			return changes{}
		}
	}
	return changes{w}
}

func (c changes) events() <-chan fsnotify.Event {
	if c.w == nil {
		return nil
	}
	return c.w.Events
}

// errors gives what else there is to know: that events were lost.
func (c changes) errors() <-chan error {
	if c.w == nil {
		return nil
	}
	return c.w.Errors
}

func (c changes) close() {
	if c.w != nil {
		_ = c.w.Close() // only read
	}
}
