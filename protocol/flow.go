package protocol

import (
	"encoding/binary"
	"time"
)

// flow is how far a client is ahead of the call that takes its data. What is further ahead
// than the way is long only lies in buffers. That of sshd, up to the channel's window of 2 MiB, is
// copied whenever it has to grow, at more cost than all the rest of sending a WAL segment.
type flow struct {
	sent, taken int64 // bytes of this call

	trip  time.Duration // the shortest time it took to hear of data as taken; 0: not known
	probe int64         // data up to here is being timed; 0: none is
	begun time.Duration // when it was sent
}

const (
	// aheadLeast keeps both ends busy where the way is short.
	aheadLeast = 2 * maxData
	// aheadPerMS is on its way besides, for each millisecond of the trip.
	aheadPerMS = 64 << 10
	// tellAfter is how much a call takes before the client hears of it. Until then the client must
	// have room for one more frame.
	tellAfter = aheadLeast - maxData
	// takenSize is that of the number in a frame.
	takenSize = 4
)

// reset is for the next call.
func (w *flow) reset() { *w = flow{trip: w.trip} }

// full says whether n more bytes have to wait until some are taken.
func (w *flow) full(n int) bool {
	ahead := w.sent - w.taken
	return ahead > 0 && ahead+int64(n) > aheadLeast+w.trip.Milliseconds()*aheadPerMS
}

// add notes what is being sent.
func (w *flow) add(n int, now time.Duration) {
	w.sent += int64(n)
	if w.probe == 0 {
		w.probe, w.begun = w.sent, now
	}
}

// heard notes what is taken, if the frame is about that.
func (w *flow) heard(f frame, now time.Duration) bool {
	if f.kind != kindTaken || len(f.payload) != takenSize {
		return false
	}
	w.taken = min(w.taken+int64(binary.BigEndian.Uint32(f.payload)), w.sent)
	if w.probe > 0 && w.taken >= w.probe {
		if took := now - w.begun; w.trip == 0 || took < w.trip {
			w.trip = took
		}
		w.probe = 0
	}
	return true
}

// taken tells the client that n more bytes of its data are where they should be.
func (s *server) taken(n int) {
	_ = s.send(kindTaken, binary.BigEndian.AppendUint32(nil, uint32(n))) // an error shows in the reading
}
