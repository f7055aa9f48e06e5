package agent_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
	"github.com/pgx-backup/pgx/protocol/protocoltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// remote serves sessions. Each gets a service of its own.
type remote struct {
	t       testing.TB
	service func() protocol.Service
	serving sync.WaitGroup

	mu    sync.Mutex
	lines []protocol.Transport // the servers' ends
	ends  []error              // what Serve gave
}

func newRemote(t testing.TB, service func() protocol.Service) *remote {
	r := &remote{t: t, service: service}
	t.Cleanup(r.serving.Wait)
	return r
}

func (r *remote) open(ctx context.Context, role string) (*protocol.Session, error) {
	client, server := protocoltest.Pipe(r.t)
	r.mu.Lock()
	r.lines = append(r.lines, server)
	r.mu.Unlock()
	config := func(peer string) protocol.Config {
		return protocol.Config{Peer: peer, Program: "pgx test", Silence: 20 * time.Second}
	}
	r.serving.Go(func() {
		err := protocol.Serve(context.WithoutCancel(ctx), server, config("client"), func(context.Context, protocol.Hello) (protocol.Service, error) {
			return r.service(), nil
		})
		r.mu.Lock()
		r.ends = append(r.ends, err)
		r.mu.Unlock()
	})
	return protocol.Open(ctx, client, protocol.Hello{Role: role, Command: "backup", Stanza: "demo"}, config("agent"))
}

// session opens one that the test's end closes.
func (r *remote) session(role string) *protocol.Session {
	r.t.Helper()
	s, err := r.open(r.t.Context(), role)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (r *remote) pool(role string, most int) *protocol.Pool {
	p := protocol.NewPool(most, func(ctx context.Context) (*protocol.Session, error) { return r.open(ctx, role) })
	r.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return p
}

// cut breaks all connections.
func (r *remote) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		_ = l.Close()
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code errs.Code) {
	t.Helper()
	if err == nil || errs.CodeOf(err) != code {
		t.Errorf("error is [%03d] %v, want [%03d]", errs.CodeOf(err), err, code)
	}
}

func isCancelled(err error) bool { return errors.Is(err, context.Canceled) }
