package protocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/pgx-backup/pgx/internal/errs"
)

// kind says what a frame is.
type kind uint8

const (
	kindHello   kind = iota + 1 // client: Hello
	kindWelcome                 // server: welcome
	kindRequest                 // client: request
	kindData                    // either: bytes of a stream
	kindEnd                     // either: the stream is complete
	kindResult                  // server: the call has succeeded
	kindError                   // server: the call, or the Hello, has failed
	kindCancel                  // client: the call is not wanted any more, and its data ends
	kindPing                    // either: a sign of life
	kindTaken                   // server: how much more of the client's data the call has taken
	kindTotal
)

const (
	headerSize = 5 // length of the payload, big endian, and kind

	// maxData and maxControl bound a payload, in bytes. They are checked before anything
	// is allocated.
	maxData    = 256 << 10
	maxControl = 1 << 20

	// joined is the largest payload that is copied behind its header to be written at
	// once; a larger one is written after it.
	joined = 32 << 10
)

// bound is how long a payload may be.
func (k kind) bound() int {
	switch k {
	case kindData:
		return maxData
	case kindEnd, kindCancel, kindPing:
		return 0
	case kindTaken:
		return takenSize
	}
	return maxControl
}

// frame is one that has been read.
type frame struct {
	kind    kind
	payload []byte
	pooled  *[]byte // what payload is a part of, for release
}

// buffers holds *[]byte of maxData.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxData); return &b }}

// release gives the memory of a data frame back.
func (f *frame) release() {
	if f.pooled != nil {
		buffers.Put(f.pooled)
	}
	f.payload, f.pooled = nil, nil
}

// readFrame reads a frame. Between two frames io.EOF is the end.
func readFrame(in *bufio.Reader) (frame, error) {
	var head [headerSize]byte
	if n, err := io.ReadFull(in, head[:]); err != nil {
		if n > 0 && (err == io.EOF || err == io.ErrUnexpectedEOF) {
			return frame{}, &foreign{text: string(head[:n])}
		}
		return frame{}, err
	}
	size, k := binary.BigEndian.Uint32(head[:]), kind(head[4])
	if k == 0 || k >= kindTotal || size > uint32(k.bound()) {
		more, _ := in.Peek(min(in.Buffered(), 1024)) // what is there is there
		return frame{}, &foreign{text: string(head[:]) + string(more)}
	}
	f := frame{kind: k}
	if k == kindData {
		f.pooled = buffers.Get().(*[]byte)
		f.payload = (*f.pooled)[:size]
	} else if size > 0 {
		f.payload = make([]byte, size)
	}
	if _, err := io.ReadFull(in, f.payload); err != nil {
		f.release()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return f, nil
}

// foreign is what came in place of a frame.
type foreign struct{ text string }

func (f *foreign) Error() string { return "not a frame: " + f.quoted() }

// quoted gives the beginning of the text so that it can be shown.
func (f *foreign) quoted() string {
	text := strings.TrimSpace(f.text)
	if line, _, more := strings.Cut(text, "\n"); more {
		text = line
	}
	if len(text) > 200 {
		text = text[:200]
	}
	return strconv.QuoteToASCII(text)
}

// greeting is in the first line that a remote process of pgBackRest sends
// (protocolServerNew in src/protocol/server.c).
const greeting = `"name":"pgBackRest"`

// explain says what it means that peer sent this.
func (f *foreign) explain(peer string) error {
	if strings.Contains(f.text, greeting) {
		return errs.WithHint(errs.New(errs.Protocol, "'%s' is pgBackRest, which does not speak pgx's protocol", peer),
			"both ends must be pgx: install it on the other host too, and look at the command that authorized_keys forces there")
	}
	return errs.WithHint(errs.New(errs.Protocol, "'%s' sent %s, which is not pgx's protocol", peer, f.quoted()),
		"if that is text of a login script, it must not print anything when the shell is not interactive")
}

// sender writes frames. Its methods may be called from several goroutines.
type sender struct {
	mu  sync.Mutex
	out io.Writer
	buf []byte
}

func (s *sender) frame(k kind, payload []byte) error {
	if len(payload) > k.bound() {
		return errs.New(errs.Protocol, "a message of %d bytes is too large", len(payload))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = binary.BigEndian.AppendUint32(s.buf[:0], uint32(len(payload)))
	s.buf = append(s.buf, byte(k))
	if len(payload) <= joined {
		s.buf = append(s.buf, payload...)
		payload = nil
	}
	if _, err := s.out.Write(s.buf); err != nil {
		return lost(err)
	}
	if payload == nil {
		return nil
	}
	_, err := s.out.Write(payload)
	return lost(err)
}

// errLost is that the connection is gone, whatever the transport called it.
var errLost = errors.New("connection lost")

// lostError is errLost with what the transport said.
type lostError struct{ cause error }

func (l *lostError) Error() string   { return errLost.Error() + ": " + l.cause.Error() }
func (l *lostError) Is(e error) bool { return e == errLost }
func (l *lostError) Unwrap() error   { return l.cause }

func lost(err error) error {
	if err == nil {
		return nil
	}
	return &lostError{err}
}

// dataWriter makes data frames of what is written. Small writes are gathered until
// flush.
type dataWriter struct {
	send  func([]byte) error
	buf   *[]byte
	held  int
	count int64
}

func (d *dataWriter) Write(p []byte) (int, error) {
	for n := 0; ; {
		if d.held == 0 && len(p)-n >= maxData { // no need to gather
			if err := d.send(p[n : n+maxData]); err != nil {
				return n, err
			}
			n += maxData
			d.count += maxData
			continue
		}
		if n == len(p) {
			return n, nil
		}
		if d.buf == nil {
			d.buf = buffers.Get().(*[]byte)
		}
		c := copy((*d.buf)[d.held:], p[n:])
		d.held += c
		n += c
		d.count += int64(c)
		if d.held == maxData {
			if err := d.flush(); err != nil {
				return n, err
			}
		}
	}
}

// ReadFrom sends what src gives as it comes.
func (d *dataWriter) ReadFrom(src io.Reader) (int64, error) {
	if d.buf == nil {
		d.buf = buffers.Get().(*[]byte)
	}
	var total int64
	for {
		n, err := src.Read((*d.buf)[d.held:])
		d.held += n
		total += int64(n)
		d.count += int64(n)
		if d.held == maxData || err == io.EOF {
			if ferr := d.flush(); ferr != nil {
				return total, ferr
			}
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

func (d *dataWriter) flush() error {
	if d.held == 0 {
		return nil
	}
	held := d.held
	d.held = 0
	return d.send((*d.buf)[:held])
}

// release gives the buffer back. Nothing may be written after it.
func (d *dataWriter) release() {
	if d.buf != nil {
		buffers.Put(d.buf)
		d.buf = nil
	}
}
