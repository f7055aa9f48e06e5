package sshd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol/sshd"
)

func TestSetGrants(t *testing.T) {
	same, gone1, changed, added := signer(t), signer(t), signer(t), signer(t)
	causes := make(chan error, 16) // those that run to the end of the test are cancelled too
	l := start(t, sshd.Config{Serve: func(ctx context.Context, tr io.ReadWriteCloser, p sshd.Peer) {
		echo(ctx, tr, p)
		if ctx.Err() != nil {
			causes <- context.Cause(ctx)
		}
	}},
		grant(t, "archive,restore main", same.PublicKey(), "same"), grant(t, "archive main", gone1.PublicKey(), "gone"),
		grant(t, "archive main", changed.PublicKey(), "changed"))
	kept, c1, c2 := l.connect(t, same), l.connect(t, gone1), l.connect(t, changed)
	cmd := mustExec(t, kept)
	mustExec(t, c1)
	mustExec(t, c2)
	if _, err := l.dial(added); err == nil {
		t.Error("a key without a grant logged in")
	}

	if err := l.SetGrants([]sshd.Grant{{Name: "none"}}); errs.CodeOf(err) != errs.OptionInvalidValue || err.Error() != "grant 1 ('none'): it has no key" {
		t.Errorf("error %v", err)
	}
	cmd.line(t, "nothing has changed\n")
	if err := l.SetGrants([]sshd.Grant{
		grant(t, "restore main", same.PublicKey(), "other name"), grant(t, "archive main,main", same.PublicKey(), "same"),
		grant(t, "archive *", changed.PublicKey(), "changed"), grant(t, "archive main", added.PublicKey(), "added"),
	}); err != nil {
		t.Fatal(err)
	}
	within(t, "end of the removed key's connection", gone(c1))
	within(t, "end of the changed key's connection", gone(c2))
	for range 2 {
		if err := <-causes; errs.CodeOf(err) != errs.Access || !strings.HasPrefix(err.Error(), "the grant of key '") {
			t.Errorf("sessions ended with %v", err)
		}
	}
	cmd.line(t, "still there\n")
	mustExec(t, kept)
	mustExec(t, l.connect(t, added))
	mustExec(t, l.connect(t, changed))
	if c, err := l.dial(gone1); err == nil {
		_ = c.Close()
		t.Error("the removed key logged in")
	}
	if log := l.log.String(); strings.Count(log, " ended: the grant of key ") != 2 {
		t.Errorf("log is\n%s", log)
	}
}

func TestDrain(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Serve: echo, Drain: time.Hour}, grant(t, "archive main", key.PublicKey(), "db1"))
	busy, unused := l.connect(t, key), l.connect(t, key)
	cmd := mustExec(t, busy)
	pending, err := net.Dial("tcp", l.addr) // does not log in
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pending.Close() }()
	l.stop()
	within(t, "end of a connection without a session", gone(unused))
	if _, err := io.Copy(io.Discard, pending); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if c, err := l.dial(key); err == nil {
		_ = c.Close()
		t.Error("a new connection was accepted")
	}
	var open *ssh.OpenChannelError
	if _, err := execOn(busy); !errors.As(err, &open) || open.Message != "the listener is shutting down" {
		t.Errorf("new channel: %v", err)
	}
	cmd.line(t, "still works\n")
	select {
	case <-l.done:
		t.Error("Serve returned while a session runs")
	default:
	}
	if err := cmd.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if status := cmd.wait(); status != "[0 0 0 0]" {
		t.Errorf("exit status %s", status)
	}
	within(t, "end of Serve", l.done)
}

func TestDrainEnds(t *testing.T) {
	key := signer(t)
	l := start(t, sshd.Config{Drain: 50 * time.Millisecond, Serve: func(ctx context.Context, tr io.ReadWriteCloser, p sshd.Peer) {
		told := make(chan struct{})
		go func() {
			defer close(told)
			<-ctx.Done()
			_, _ = io.WriteString(tr, context.Cause(ctx).Error())
		}()
		echo(ctx, tr, p) // does not care for ctx
		<-told
	}}, grant(t, "archive main", key.PublicKey(), "db1"))
	c := l.connect(t, key)
	cmd := mustExec(t, c)
	l.stop()
	text, err := io.ReadAll(cmd)
	if err != nil || string(text) != "the listener is shutting down" {
		t.Errorf("got %q, error %v", text, err)
	}
	within(t, "end of the connection", gone(c))
	within(t, "end of Serve", l.done)
}

func TestServeFails(t *testing.T) {
	s := sshd.New(sshd.Config{HostKey: signer(t), Serve: echo})
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nl.Close()
	want := "unable to accept connections at '" + nl.Addr().String() + "': "
	if err := s.Serve(t.Context(), nl); errs.CodeOf(err) != errs.HostConnect || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v %v", errs.CodeOf(err), err)
	}
}
