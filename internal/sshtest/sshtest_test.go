package sshtest_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pgx-backup/pgx/internal/sshtest"
)

func TestServer(t *testing.T) {
	s := sshtest.Start(t, sshtest.Options{})
	ssh := func(user, command string) *exec.Cmd {
		return exec.Command("ssh", "-F", "none", "-i", s.Key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile="+s.KnownHosts,
			"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-p", strconv.Itoa(s.Port), user+"@"+s.Host, command)
	}
	users := []string{s.User}
	if os.Getuid() == 0 {
		users = append(users, "postgres") // whose password is locked
	}
	for _, user := range users {
		out, err := ssh(user, "id -un").Output()
		if err != nil || strings.TrimSpace(string(out)) != user {
			t.Fatalf("as %s: %q, %v", user, out, err)
		}
	}

	cmd := ssh(s.User, "echo ready; cat")
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	s.StopListening()
	if s.Serving() == 0 {
		t.Error("the connection is not found")
	}
	s.Signal(syscall.SIGKILL)
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 255 {
		t.Errorf("ssh ended with %v", err)
	}
}
