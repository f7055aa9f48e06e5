package sshd_test

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol/sshd"
)

const (
	ed25519Key = "AAAAC3NzaC1lZDI1NTE5AAAAIIjfDzDnlMRzIZtwyEcrM4DCsuJtxzQlEy4FxQQNAKy6"
)

func TestParseGrant(t *testing.T) {
	for _, test := range []struct {
		in, name        string
		roles, stanzas  []string
		printsSomething string
	}{
		{"archive main ssh-ed25519 " + ed25519Key + " db1", "db1", []string{"archive"}, []string{"main"}, ""},
		{"archive,restore main,other ssh-ed25519 " + ed25519Key + " postgres@db1", "postgres@db1", []string{"archive", "restore"}, []string{"main", "other"}, ""},
		{" restore-target\t *  ssh-ed25519  " + ed25519Key + "  the key  of db1 ", "the key of db1", []string{"restore-target"}, []string{"*"},
			"restore-target * ssh-ed25519 " + ed25519Key + " the key of db1"},
		{"admin *,main ssh-ed25519 " + ed25519Key, "SHA256:", []string{"admin"}, []string{"*", "main"}, ""},
	} {
		g, err := sshd.ParseGrant(test.in)
		if err != nil {
			t.Errorf("'%s': %v", test.in, err)
			continue
		}
		if test.printsSomething == "" {
			test.printsSomething = test.in
		}
		if !strings.HasPrefix(g.Name, test.name) || !reflect.DeepEqual(g.Roles, test.roles) || !reflect.DeepEqual(g.Stanzas, test.stanzas) || g.String() != test.printsSomething {
			t.Errorf("'%s' is %+v, prints '%s'", test.in, g, g)
		}
	}
}

func TestParseGrantErrors(t *testing.T) {
	cert := "ssh-ed25519-cert-v01@openssh.com"
	for in, want := range map[string]string{
		"":                                   "it has 0 fields, fewer than 4",
		"archive main":                       "it has 2 fields, fewer than 4",
		"archive main ssh-ed25519":           "it has 3 fields, fewer than 4",
		"ssh-ed25519 " + ed25519Key + " db1": "roles and stanzas are missing before the key",
		"archive ssh-ed25519 " + ed25519Key + " db1":                       "roles or stanzas are missing before the key",
		"archive main restrict ssh-ed25519 " + ed25519Key:                  "'restrict' before the key: options are not accepted",
		`archive main from="10.0.0.1, ::1" ssh-ed25519 ` + ed25519Key:      `'from="10.0.0.1, ::1"' before the key: options are not accepted`,
		"archive main " + cert + " " + ed25519Key:                          "'" + cert + "' is a certificate, only plain keys are accepted",
		"archive main ssh-dss AAAAB3NzaC1kc3MAAA== db1":                    "'ssh-dss' is not a type of key that is accepted (ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, ssh-rsa, sk-ssh-ed25519@openssh.com, sk-ecdsa-sha2-nistp256@openssh.com)",
		"archive main rsa x ssh-ed25519":                                   "'rsa' is not a type of key that is accepted (ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, ssh-rsa, sk-ssh-ed25519@openssh.com, sk-ecdsa-sha2-nistp256@openssh.com)",
		"archive main ssh-ed25519 AAAA!":                                   "the key is not base64, or not all of it is there",
		"archive main ssh-ed25519 " + ed25519Key[:len(ed25519Key)-2]:       "the key is not base64, or not all of it is there",
		"archive main ssh-ed25519 " + ed25519Key[:len(ed25519Key)-4]:       "the key is damaged: short read",
		"archive main ssh-ed25519 " + ed25519Key + "AAAA":                  "the key is damaged: trailing junk in public key",
		"archive main ssh-rsa " + ed25519Key:                               "the key says 'ssh-rsa' but is 'ssh-ed25519'",
		"archive, main ssh-ed25519 " + ed25519Key:                          "'' is not a role",
		"* main ssh-ed25519 " + ed25519Key:                                 "'*' is not a role",
		"Archive main ssh-ed25519 " + ed25519Key:                           "'Archive' is not a role",
		"archive main,,x ssh-ed25519 " + ed25519Key:                        "'' is not a stanza",
		"archive ../x ssh-ed25519 " + ed25519Key:                           "'../x' is not a stanza",
		"archive .. ssh-ed25519 " + ed25519Key:                             "'..' is not a stanza",
		"archive main* ssh-ed25519 " + ed25519Key:                          "'main*' is not a stanza: '*' alone is every stanza, there are no patterns",
		"archive main ssh-ed25519 " + ed25519Key + " \x1b[2J":              "it has a character that cannot be printed",
		"archive main ssh-ed25519 " + ed25519Key + "\nadmin * ssh-ed25519": "it has a character that cannot be printed",
		"archive main ssh-ed25519 " + ed25519Key + " \xff":                 "it has a character that cannot be printed",
	} {
		_, err := sshd.ParseGrant(in)
		if errs.CodeOf(err) != errs.OptionInvalidValue || !strings.HasSuffix(errs.Message(err), " is not a grant: "+want) || len(errs.Hints(err)) != 1 {
			t.Errorf("'%s'\n got %v %v\nwant %s", in, errs.CodeOf(err), err, want)
		}
	}
	_, err := sshd.ParseGrant("archive main ssh-rsa " + ed25519Key + " db1")
	want := "'archive main ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIIjfDzDnlMRzIZt…' is not a grant: the key says 'ssh-rsa' but is 'ssh-ed25519'\n" +
		"HINT: write it as 'ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT]', the last three as in the file of the public key"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestPermits(t *testing.T) {
	g := sshd.Grant{Roles: []string{"archive", "restore"}, Stanzas: []string{"main", "other"}}
	all := sshd.Grant{Roles: []string{"admin"}, Stanzas: []string{"*"}}
	for _, test := range []struct {
		g            sshd.Grant
		role, stanza string
		want         bool
	}{
		{g, "archive", "main", true},
		{g, "restore", "other", true},
		{g, "admin", "main", false},
		{g, "archive", "mainx", false},
		{g, "archive", "*", false},
		{g, "archive", "", false},
		{g, "", "main", false},
		{all, "admin", "any", true},
		{all, "archive", "any", false},
		{sshd.Grant{}, "", "", false},
	} {
		if got := test.g.Permits(test.role, test.stanza); got != test.want {
			t.Errorf("%v: '%s' on '%s': %v", test.g.Roles, test.role, test.stanza, got)
		}
	}
}

func FuzzParseGrant(f *testing.F) {
	f.Add("archive,restore main ssh-ed25519 " + ed25519Key + " db1")
	f.Add("admin * ssh-ed25519 " + ed25519Key)
	f.Add("archive main restrict,command=\"x y\" ssh-ed25519 " + ed25519Key)
	f.Add("a main rsa x ssh-ed25519")
	f.Add("a b ecdsa-sha2-nistp256 " + base64.StdEncoding.EncodeToString([]byte("\x00\x00\x00\x13ecdsa-sha2-nistp256\x00\x00\x00\x08nistp256\x00\x00\x00\x00")))
	f.Fuzz(func(t *testing.T, in string) {
		g, err := sshd.ParseGrant(in)
		if err != nil {
			if errs.CodeOf(err) != errs.OptionInvalidValue || strings.ContainsAny(errs.Message(err), "\n\x1b") {
				t.Errorf("error %q", err)
			}
			return
		}
		again, err := sshd.ParseGrant(g.String())
		if err != nil || !reflect.DeepEqual(again, g) || ssh.FingerprintSHA256(again.Key) != ssh.FingerprintSHA256(g.Key) {
			t.Errorf("'%s' became '%s', error %v", g, again, err)
		}
	})
}
