package pgdata_test

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func userName(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	must(t, err)
	return u.Username
}

func groupName(t *testing.T) string {
	t.Helper()
	g, err := user.LookupGroupId(strconv.Itoa(os.Getegid()))
	must(t, err)
	return g.Name
}

// Root gives files to who the backup says, and what has no owner here to who owns the
// data directory.
func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(daemon.Uid)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	owner, _ := strconv.Atoi(nobody.Uid)
	s := newSmall(t)
	must(t, os.Mkdir(s.dir, 0o700))
	must(t, os.Chown(s.dir, owner, owner))
	s.layout.Users = []string{"daemon", "", "no such user"}
	s.layout.Groups = []string{groupName(t)}
	for i := range s.layout.Dirs {
		s.layout.Dirs[i].User = "daemon"
	}
	must(t, s.begin())
	for name, who := range map[string]string{"2600": "daemon", "2601": "", "2602": "no such user"} {
		f := s.file("pg_data/base/1/"+name, "x")
		f.User = who
		must(t, s.target.Put(t.Context(), f, strings.NewReader("x")))
	}
	must(t, s.target.Write(t.Context(), "recovery.signal", nil))
	for path, want := range map[string]int{
		"base": uid, "base/1/2600": uid, "base/1/2601": owner, "base/1/2602": owner, "recovery.signal": uid, "backup.manifest": owner,
	} {
		var st unix.Stat_t
		must(t, unix.Lstat(s.dir+"/"+path, &st))
		if int(st.Uid) != want {
			t.Errorf("%s belongs to %d, want %d", path, st.Uid, want)
		}
	}
	for _, line := range []string{
		"unknown user in backup manifest mapped to 'nobody'",
		"unknown user 'no such user' in backup manifest mapped to 'nobody'",
	} {
		if !strings.Contains(s.log.String(), line) {
			t.Errorf("the log lacks: %s", line)
		}
	}
}

// A number that is no name is an id: what List gives where the owner of the data
// directory has no name.
func TestNumericOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const nobodyKnows = 3987654321
	s := newSmall(t)
	s.layout.Users, s.layout.Groups = []string{"3987654321", "4294967295", "007"}, []string{"3987654321", groupName(t)}
	for i := range s.layout.Dirs {
		s.layout.Dirs[i].User, s.layout.Dirs[i].Group = "3987654321", "3987654321"
	}
	must(t, s.begin())
	f := s.file("pg_data/PG_VERSION", "x")
	f.User = "3987654321"
	must(t, s.target.Put(t.Context(), f, strings.NewReader("x")))
	for path, want := range map[string]uint32{".": nobodyKnows, "base": nobodyKnows, "PG_VERSION": nobodyKnows} {
		var st unix.Stat_t
		must(t, unix.Lstat(s.dir+"/"+path, &st))
		if st.Uid != want {
			t.Errorf("%s belongs to %d, want %d", path, st.Uid, want)
		}
	}
	log := s.log.String()
	if strings.Contains(log, "'3987654321'") || !strings.Contains(log, "unknown user '4294967295'") || !strings.Contains(log, "unknown user '007'") {
		t.Errorf("the log is\n%s", log)
	}
}
