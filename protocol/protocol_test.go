package protocol_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/protocol/protocoltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	clientConfig = protocol.Config{Peer: "postgres@db1:22", Program: "pgx 1", Silence: 10 * time.Second, Wait: 10 * time.Second}
	serverConfig = protocol.Config{Peer: "10.0.0.2", Program: "pgx 2", Silence: 10 * time.Second}
)

type number struct {
	N int `json:"n"`
}

// waiting tells when the call "wait" has begun and why it ended.
type waiting struct{ begun, ended chan error }

// calls are what the tests call.
func calls(w waiting) map[string]protocol.Handler {
	return map[string]protocol.Handler{
		"double": func(_ context.Context, c *protocol.Call) (any, error) {
			var n number
			if err := c.Decode(&n); err != nil {
				return nil, err
			}
			return number{2 * n.N}, nil
		},
		"missing": func(context.Context, *protocol.Call) (any, error) {
			return nil, errs.WithHint(errs.New(errs.FileMissing, "no file 'x': %w", fs.ErrNotExist), "look for it")
		},
		"echo": func(_ context.Context, c *protocol.Call) (any, error) { // what comes, with the length as result
			b, err := io.ReadAll(c.In())
			return number{len(b)}, err
		},
		"mirror": func(_ context.Context, c *protocol.Call) (any, error) { // gives what comes
			b, err := io.ReadAll(c.In())
			if err == nil {
				_, err = c.Out().Write(b)
			}
			return number{len(b)}, err
		},
		"eager": func(_ context.Context, c *protocol.Call) (any, error) { // does not wait for what comes
			_, err := c.Out().Write(make([]byte, 256<<10))
			if err == nil {
				_, err = io.Copy(io.Discard, c.In())
			}
			return nil, err
		},
		"drain": func(_ context.Context, c *protocol.Call) (any, error) {
			n, err := io.Copy(io.Discard, c.In())
			return number{int(n)}, err
		},
		"early": func(_ context.Context, c *protocol.Call) (any, error) {
			_, err := io.ReadFull(c.In(), make([]byte, 10))
			return number{10}, err
		},
		"count": func(_ context.Context, c *protocol.Call) (any, error) {
			var n number
			if err := c.Decode(&n); err != nil {
				return nil, err
			}
			for i := range n.N {
				if err := binary.Write(c.Out(), binary.BigEndian, uint32(i)); err != nil {
					return nil, err
				}
			}
			return n, nil
		},
		"cut": func(_ context.Context, c *protocol.Call) (any, error) {
			_, err := c.Out().Write(make([]byte, 256<<10))
			return nil, errors.Join(err, errs.New(errs.FileRead, "disk error"))
		},
		"endless": func(_ context.Context, c *protocol.Call) (any, error) {
			for b := make([]byte, 1<<20); ; {
				if _, err := c.Out().Write(b); err != nil {
					w.ended <- err
					return nil, err
				}
			}
		},
		"wait": func(ctx context.Context, _ *protocol.Call) (any, error) {
			w.begun <- nil
			<-ctx.Done()
			w.ended <- context.Cause(ctx)
			return nil, ctx.Err()
		},
		"panic": func(context.Context, *protocol.Call) (any, error) { panic("oh") },
	}
}

// serve serves the calls on t.
func serve(ctx context.Context, t protocol.Transport, w waiting) error {
	return protocol.Serve(ctx, t, serverConfig, func(_ context.Context, h protocol.Hello) (protocol.Service, error) {
		if h.Role != "tester" {
			return protocol.Service{}, errs.WithHint(errs.New(errs.Access, "role '%s' is not granted", h.Role), "ask for another")
		}
		return protocol.Service{Calls: calls(w)}, nil
	})
}

// pair gives a session whose other end is served; served gives what Serve returned.
func pair(t *testing.T) (s *protocol.Session, served chan error, w waiting) {
	t.Helper()
	w = waiting{make(chan error, 1), make(chan error, 1)}
	near, far := protocoltest.Pipe(t)
	served = make(chan error, 1)
	go func() { served <- serve(context.Background(), far, w) }()
	s, err := protocol.Open(t.Context(), near, protocol.Hello{Role: "tester"}, clientConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, served, w
}

// double shows that the session is fine.
func double(t *testing.T, c protocol.Caller) {
	t.Helper()
	var n number
	if err := c.Call(t.Context(), "double", number{21}, &n); err != nil || n.N != 42 {
		t.Fatalf("double 21: %d, %v", n.N, err)
	}
}

func TestCalls(t *testing.T) {
	s, served, _ := pair(t)
	double(t, s)

	err := s.Call(t.Context(), "missing", nil, nil)
	want := "on 'postgres@db1:22': no file 'x': file does not exist\nHINT: look for it"
	if err == nil || err.Error() != want || errs.CodeOf(err) != errs.FileMissing || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	err = s.Call(t.Context(), "erase", nil, nil)
	if errs.CodeOf(err) != errs.Access || errs.Message(err) != "on 'postgres@db1:22': role 'tester' may not call 'erase'" {
		t.Errorf("error is %v", err)
	}
	for _, args := range []any{map[string]any{"n": 1, "more": 2}, "text", nil} {
		if err := s.Call(t.Context(), "double", args, nil); errs.CodeOf(err) != errs.Protocol {
			t.Errorf("arguments %v: %v", args, err)
		}
	}
	double(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("a client that leaves is no error: %v", err)
	}
}

func TestSend(t *testing.T) {
	s, _, _ := pair(t)
	for _, size := range []int{0, 1, 1000, 256 << 10, 256<<10 + 1, 3 << 20} {
		for _, call := range []string{"echo", "drain"} {
			for name, src := range map[string]io.Reader{
				"WriteTo": bytes.NewReader(make([]byte, size)),
				"Read":    struct{ io.Reader }{bytes.NewReader(make([]byte, size))},
			} {
				var n number
				if err := s.Send(t.Context(), call, nil, src, &n); err != nil || n.N != size {
					t.Errorf("%s %d by %s: %d, %v", call, size, name, n.N, err)
				}
			}
		}
	}
	var n number
	if err := s.Send(t.Context(), "early", nil, rand.NewChaCha8([32]byte{}), &n); err != nil || n.N != 10 {
		t.Errorf("early answer: %d, %v", n.N, err)
	}
	double(t, s)
	own := errors.New("source is broken")
	src := io.MultiReader(strings.NewReader("abc"), &failing{own})
	if err := s.Send(t.Context(), "drain", nil, src, &n); err != own {
		t.Errorf("error of the source became %v", err)
	}
	double(t, s)
	if err := s.Send(t.Context(), "missing", nil, rand.NewChaCha8([32]byte{}), &n); errs.CodeOf(err) != errs.FileMissing {
		t.Errorf("error of a call that reads nothing: %v", err)
	}
	double(t, s)
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func TestReceive(t *testing.T) {
	s, _, _ := pair(t)
	for _, count := range []int{0, 1, 100_000, 1 << 20} {
		st, err := s.Receive(t.Context(), "count", number{count})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(st)
		if err != nil || len(b) != 4*count || count > 0 && binary.BigEndian.Uint32(b[len(b)-4:]) != uint32(count-1) {
			t.Errorf("%d: %d bytes, %v", count, len(b), err)
		}
		var n number
		if err := st.Result(&n); err != nil || n.N != count {
			t.Errorf("result %d, %v", n.N, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}

	st, err := s.Receive(t.Context(), "cut", nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, st); n != 256<<10 || errs.CodeOf(err) != errs.FileRead {
		t.Errorf("a stream that fails gave %d bytes and %v", n, err)
	}
	if err := st.Result(nil); err == nil {
		t.Error("a stream that failed has a result")
	}
	_ = st.Close()
	double(t, s)

	if _, err := s.Receive(t.Context(), "missing", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what fails at once: %v", err)
	}
	double(t, s)

	st, err = s.Receive(t.Context(), "endless", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Call(t.Context(), "double", number{1}, nil); errs.CodeOf(err) != errs.Assert {
		t.Errorf("a call beside a stream: %v", err)
	}
	if _, err := io.ReadFull(st, make([]byte, 1<<20)); err != nil {
		t.Error(err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	double(t, s)
}

// TestExchange: data goes one way, then the other.
func TestExchange(t *testing.T) {
	s, _, _ := pair(t)
	for _, size := range []int{0, 1, 1000, 256<<10 + 1, 3 << 20} {
		content := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{}).Read(content)
		st, err := s.Exchange(t.Context(), "mirror", nil, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(st)
		var n number
		if err := errors.Join(err, st.Result(&n), st.Close()); err != nil || n.N != size || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %d came back, %v", size, len(got), err)
		}
	}
	st, err := s.Exchange(t.Context(), "mirror", nil, bytes.NewReader(make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	_ = st.Close() // nothing was read
	double(t, s)

	own := errors.New("source is broken")
	if _, err := s.Exchange(t.Context(), "mirror", nil, io.MultiReader(strings.NewReader("abc"), &failing{own})); err != own {
		t.Errorf("error of the source became %v", err)
	}
	double(t, s)
	if _, err := s.Exchange(t.Context(), "missing", nil, rand.NewChaCha8([32]byte{})); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error of a call that reads nothing: %v", err)
	}
	double(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	src := io.MultiReader(strings.NewReader("abc"), readFunc(func([]byte) (int, error) { cancel(); return 0, io.EOF }))
	if _, err := s.Exchange(ctx, "mirror", nil, src); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	double(t, s)
	// What does not wait for the end of the client's data breaks the session.
	if _, err := s.Exchange(t.Context(), "eager", nil, rand.NewChaCha8([32]byte{})); errs.CodeOf(err) != errs.Protocol {
		t.Errorf("data out of turn: %v", err)
	}
	if s.Err() == nil {
		t.Error("the session can be used after that")
	}
}

type readFunc func([]byte) (int, error)

func (r readFunc) Read(p []byte) (int, error) { return r(p) }

// TestUndeclared: data that the client did not ask for, or did not announce.
func TestUndeclared(t *testing.T) {
	s, _, _ := pair(t)
	if err := s.Call(t.Context(), "count", number{100_000}, nil); errs.CodeOf(err) != errs.Assert {
		t.Errorf("data that was not asked for: %v", err)
	}
	double(t, s)
	var n number
	if err := s.Call(t.Context(), "drain", nil, &n); err != nil || n.N != 0 {
		t.Errorf("no data is an empty stream: %d, %v", n.N, err)
	}
}

func TestCancel(t *testing.T) {
	s, _, w := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-w.begun; cancel() }()
	if err := s.Call(ctx, "wait", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
	if why := <-w.ended; errs.CodeOf(why) != errs.Term {
		t.Errorf("the handler was cancelled because of %v", why)
	}
	double(t, s)

	ctx, cancel = context.WithCancel(t.Context())
	st, err := s.Receive(ctx, "endless", nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, st); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled stream: %v", err)
	}
	_ = st.Close()
	double(t, s)
}

// TestClientGone: whatever runs ends with the client.
func TestClientGone(t *testing.T) {
	for _, call := range []string{"wait", "endless"} {
		s, served, w := pair(t)
		done := make(chan error, 1)
		go func() {
			st, err := s.Receive(t.Context(), call, nil)
			if err == nil {
				_ = st.Close()
			}
			done <- err
		}()
		if call == "wait" {
			<-w.begun
		}
		if call == "endless" {
			<-done
		}
		_ = s.Close()
		<-w.ended
		if err := <-served; call == "wait" && errs.CodeOf(err) != errs.HostConnect {
			t.Errorf("%s: served ended with %v", call, err)
		}
	}
}

func TestServerEnds(t *testing.T) {
	w := waiting{make(chan error, 1), make(chan error, 1)}
	near, far := protocoltest.Pipe(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, far, w) }()
	s, err := protocol.Open(t.Context(), near, protocol.Hello{Role: "tester"}, clientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go func() { <-w.begun; cancel() }()
	if err := s.Call(t.Context(), "wait", nil, nil); errs.CodeOf(err) != errs.Term {
		t.Errorf("call when the server ends: %v", err)
	}
	if err := <-served; errs.CodeOf(err) != errs.Term {
		t.Errorf("served: %v", err)
	}
	if err := s.Call(t.Context(), "double", number{1}, nil); err == nil {
		t.Error("the session has survived its server")
	}
}

func TestPanic(t *testing.T) {
	s, served, _ := pair(t)
	if err := s.Call(t.Context(), "panic", nil, nil); errs.CodeOf(err) != errs.Assert || strings.Contains(err.Error(), "oh") {
		t.Errorf("panic became %v", err)
	}
	if err := <-served; err == nil || !strings.Contains(err.Error(), "oh") || !strings.Contains(err.Error(), "protocol_test.go") {
		t.Errorf("served says %v", err)
	}
}

func TestRefused(t *testing.T) {
	near, far := protocoltest.Pipe(t)
	served := make(chan error, 1)
	go func() { served <- serve(context.Background(), far, waiting{}) }()
	_, err := protocol.Open(t.Context(), near, protocol.Hello{Role: "king"}, clientConfig)
	want := "on 'postgres@db1:22': role 'king' is not granted\nHINT: ask for another"
	if err == nil || err.Error() != want || errs.CodeOf(err) != errs.Access {
		t.Errorf("refused: %v", err)
	}
	if err := <-served; errs.CodeOf(err) != errs.Access {
		t.Errorf("served: %v", err)
	}
}

func frame(kind byte, payload string) string {
	return string(append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), kind)) + payload
}

// TestVersions: both sides say in words that they do not fit.
func TestVersions(t *testing.T) {
	const words = "'%s' speaks protocol %d, '%s' speaks %d\nHINT: install the same release of pgx on both hosts"
	near, far := protocoltest.Pipe(t)
	go func() {
		_, _ = io.WriteString(near, frame(1, `{"protocol":2,"program":"pgx 9","new":"field"}`))
	}()
	if err := serve(t.Context(), far, waiting{}); err == nil || err.Error() != fmt.Sprintf(words, "pgx 9", 2, "pgx 2", 1) {
		t.Errorf("server: %v", err)
	}
	b, _ := io.ReadAll(near)
	if !bytes.Contains(b, []byte("install the same release")) {
		t.Errorf("the client is told %q", b)
	}

	near, far = protocoltest.Pipe(t)
	go func() { _, _ = io.WriteString(far, frame(2, `{"protocol":3,"program":"pgx 10"}`)) }()
	_, err := protocol.Open(t.Context(), near, protocol.Hello{}, clientConfig)
	if err == nil || err.Error() != fmt.Sprintf(words, "postgres@db1:22", 3, "pgx 1", 1) {
		t.Errorf("client: %v", err)
	}
}

// deaf is a Transport whose Write fails from some time on.
type deaf struct {
	protocol.Transport
	is     atomic.Bool
	failed chan struct{}
	once   sync.Once
}

func (d *deaf) Write(p []byte) (int, error) {
	if d.is.Load() {
		d.once.Do(func() { close(d.failed) })
		return 0, io.ErrClosedPipe
	}
	return d.Transport.Write(p)
}

func (d *deaf) Explain(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return errs.New(errs.HostConnect, "the peer was killed")
}

// TestWriteFails: the reason is how the peer has ended, though that is read later.
func TestWriteFails(t *testing.T) {
	near, far := protocoltest.Pipe(t)
	if _, err := io.WriteString(far, frame(2, `{"protocol":1,"program":"pgx 2"}`)); err != nil {
		t.Fatal(err)
	}
	d := &deaf{Transport: near, failed: make(chan struct{})}
	s, err := protocol.Open(t.Context(), d, protocol.Hello{}, clientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d.is.Store(true)
	go func() { <-d.failed; _ = far.Close() }()
	if err := s.Call(t.Context(), "double", number{1}, nil); err == nil || !strings.HasPrefix(err.Error(), "double: the peer was killed\n") {
		t.Errorf("call: %v", err)
	}
}

// TestForeign: what is at the other end is no pgx.
func TestForeign(t *testing.T) {
	huge := string(binary.BigEndian.AppendUint32(nil, 1<<30)) + "\x02"
	for _, test := range []struct {
		sent, message string
		code          errs.Code
	}{
		{"Welcome to db1!\nlast login: never\n", `'postgres@db1:22' sent "Welcome to db1!", which is not pgx's protocol`, errs.Protocol},
		{`{"name":"pgBackRest","service":"remote","version":"2.60.0"}` + "\n", "'postgres@db1:22' is pgBackRest, which does not speak pgx's protocol", errs.Protocol},
		{huge, `'postgres@db1:22' sent "@\x00\x00\x00\x02", which is not pgx's protocol`, errs.Protocol},
		{frame(200, ""), `'postgres@db1:22' sent "\x00\x00\x00\x00\xc8", which is not pgx's protocol`, errs.Protocol},
		{frame(6, "{}"), "'postgres@db1:22' sent a frame of kind 6 out of turn", errs.Protocol},
		{frame(2, "{"), "'postgres@db1:22' sent a welcome that cannot be read: unexpected end of JSON input", errs.Protocol},
		{frame(7, "{"), "on 'postgres@db1:22': error of the other side cannot be read: unexpected end of JSON input", errs.Protocol},
		{"", "'postgres@db1:22' has ended the connection", errs.HostConnect},
		{frame(2, "{}")[:6], "connection to 'postgres@db1:22' was lost", errs.HostConnect},
		{"ab", `'postgres@db1:22' sent "ab", which is not pgx's protocol`, errs.Protocol},
	} {
		near, far := protocoltest.Pipe(t)
		var wrote sync.WaitGroup
		wrote.Go(func() {
			_, _ = io.WriteString(far, test.sent)
			_ = far.(interface{ CloseWrite() error }).CloseWrite()
			_, _ = io.Copy(io.Discard, far)
		})
		_, err := protocol.Open(t.Context(), near, protocol.Hello{}, clientConfig)
		if err == nil || errs.Message(err) != test.message || errs.CodeOf(err) != test.code {
			t.Errorf("%q: [%d] %v", test.sent, errs.CodeOf(err), err)
		}
		wrote.Wait()
	}
}

// TestForeignClient: what a server is sent by anything else.
func TestForeignClient(t *testing.T) {
	hello := frame(1, `{"protocol":1,"role":"tester"}`)
	for _, sent := range []string{
		"SSH-2.0-x\r\n", frame(3, "{}"), frame(1, "{"), "", hello[:7], hello + frame(3, "["), hello + frame(4, "x"),
		hello + frame(3, `{"call":"wait"}`) + frame(4, "data"), hello + frame(3, `{"call":"drain","in":true}`) + frame(3, "{}"),
		hello + string(binary.BigEndian.AppendUint32(nil, 1<<31)) + "\x04",
	} {
		near, far := protocoltest.Pipe(t)
		w := waiting{make(chan error, 1), make(chan error, 1)}
		go func() {
			_, _ = io.WriteString(near, sent)
			_ = near.(interface{ CloseWrite() error }).CloseWrite()
			_, _ = io.Copy(io.Discard, near)
		}()
		if err := serve(t.Context(), far, w); err == nil && sent != "" {
			t.Errorf("%q was served", sent)
		}
	}
}

// TestSilence: an end that hears nothing gives up, also in the middle of a call; one whose
// peer is busy or slow does not.
func TestSilence(t *testing.T) {
	const silence = 200 * time.Millisecond
	c := clientConfig
	c.Silence = silence
	near, far := protocoltest.Pipe(t)
	_, err := protocol.Open(t.Context(), near, protocol.Hello{}, c)
	if err == nil || errs.Message(err) != "no sign of life from 'postgres@db1:22' for 200ms" {
		t.Errorf("silent server: %v", err)
	}
	_ = far.Close()

	near, far = protocoltest.Pipe(t)
	sc := serverConfig
	sc.Silence = silence
	err = protocol.Serve(t.Context(), far, sc, nil)
	if err == nil || !strings.Contains(err.Error(), "did not say who it is") && !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("silent client: %v", err)
	}
	_ = near.Close()

	// The server has a long silence, the client a short one, and a call takes longer.
	w := waiting{make(chan error, 1), make(chan error, 1)}
	near, far = protocoltest.Pipe(t)
	served := make(chan error, 1)
	go func() { served <- serve(context.Background(), far, w) }()
	s, err := protocol.Open(t.Context(), near, protocol.Hello{Role: "tester"}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*silence)
	defer cancel()
	if err := s.Call(ctx, "wait", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("long call: %v", err)
	}
	<-w.ended
	double(t, s)

	// A consumer that reads nothing for a long time.
	st, err := s.Receive(t.Context(), "endless", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(3 * silence) // the time is what is tested
	if _, err := io.ReadFull(st, make([]byte, 4<<20)); err != nil {
		t.Errorf("after a pause: %v", err)
	}
	_ = st.Close()
	double(t, s)
	_ = s.Close()
	<-served
}

func TestNoProgress(t *testing.T) {
	w := waiting{make(chan error, 1), make(chan error, 1)}
	near, far := protocoltest.Pipe(t)
	served := make(chan error, 1)
	go func() { served <- serve(context.Background(), far, w) }()
	c := clientConfig
	c.Wait = 300 * time.Millisecond
	s, err := protocol.Open(t.Context(), near, protocol.Hello{Role: "tester"}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Call(t.Context(), "wait", nil, nil); err == nil || errs.Message(err) != "wait: no answer from 'postgres@db1:22' to 'wait' for 300ms" {
		t.Errorf("call without progress: %v", err)
	}
	<-w.ended
	<-served
}

func TestPool(t *testing.T) {
	var mu sync.Mutex
	opened, broken := 0, []protocol.Transport{}
	var serving sync.WaitGroup
	p := protocol.NewPool(3, func(ctx context.Context) (*protocol.Session, error) {
		near, far := protocoltest.Pipe(t)
		mu.Lock()
		opened++
		broken = append(broken, far)
		mu.Unlock()
		serving.Go(func() { _ = serve(context.Background(), far, waiting{}) })
		return protocol.Open(ctx, near, protocol.Hello{Role: "tester"}, clientConfig)
	})
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			for range 20 {
				double(t, p)
				st, err := p.Receive(t.Context(), "count", number{1000})
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.ReadFull(st, make([]byte, 10))
				_ = st.Close()
			}
		})
	}
	callers.Wait()
	if opened > 3 {
		t.Errorf("%d sessions were opened", opened)
	}
	// Idle sessions that end are replaced.
	for _, far := range broken {
		_ = far.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n := (number{}); ctx.Err() == nil && n.N != 2; {
		_ = p.Call(ctx, "double", number{1}, &n) // the end of a session may not have shown yet
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := p.Take(t.Context()); err == nil {
		t.Error("a closed pool gives sessions")
	}
	serving.Wait()
}

// FuzzServe: whatever a client sends, the server ends and answers in frames.
func FuzzServe(f *testing.F) {
	hello := frame(1, `{"protocol":1,"role":"tester"}`)
	f.Add([]byte(hello + frame(3, `{"call":"double","args":{"n":4}}`)))
	f.Add([]byte(hello + frame(3, `{"call":"drain","in":true}`) + frame(4, "abc") + frame(5, "")))
	f.Add([]byte(hello + frame(3, `{"call":"count","args":{"n":9},"out":true}`) + frame(8, "") + frame(3, `{"call":"early","in":true}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := waiting{make(chan error, 100), make(chan error, 100)}
		near, far := protocoltest.Pipe(t)
		all := calls(w)
		delete(all, "panic") // ends the session by intent
		delete(all, "endless")
		delete(all, "count")
		var ends sync.WaitGroup
		ends.Go(func() {
			_, _ = near.Write(b)
			_ = near.(interface{ CloseWrite() error }).CloseWrite()
			_, _ = io.Copy(io.Discard, near)
		})
		_ = protocol.Serve(t.Context(), far, serverConfig, func(context.Context, protocol.Hello) (protocol.Service, error) {
			return protocol.Service{Calls: all}, nil
		})
		ends.Wait()
	})
}

// FuzzClient: whatever a server answers, a client gets an error or what was said, and
// never half a stream for a whole one.
func FuzzClient(f *testing.F) {
	welcome := frame(2, `{"protocol":1}`)
	f.Add([]byte(welcome + frame(4, "abc") + frame(5, "") + frame(6, "{}")))
	f.Add([]byte(welcome + frame(4, "abc") + frame(7, `{"code":55,"message":"x"}`)))
	f.Add([]byte(welcome + frame(4, "abc") + frame(6, "{}")))
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := protocoltest.Pipe(t)
		var ends sync.WaitGroup
		ends.Go(func() {
			_, _ = far.Write(b)
			_ = far.(interface{ CloseWrite() error }).CloseWrite()
			_, _ = io.Copy(io.Discard, far)
		})
		defer ends.Wait()
		s, err := protocol.Open(t.Context(), near, protocol.Hello{}, clientConfig)
		if err != nil {
			return
		}
		defer s.Close()
		st, err := s.Receive(t.Context(), "x", nil)
		if err != nil {
			return
		}
		defer st.Close()
		if _, err := io.Copy(io.Discard, st); err == nil && !bytes.Contains(b, []byte(frame(5, ""))) {
			t.Errorf("%q is a whole stream", b)
		}
		var raw json.RawMessage
		if err := st.Result(&raw); err == nil && !json.Valid(raw) {
			t.Errorf("%q gives the result %q", b, raw)
		}
	})
}
