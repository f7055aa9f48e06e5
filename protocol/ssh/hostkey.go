package ssh

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgx-backup/pgx/internal/errs"
)

// knownHosts says whether a host is the one it should be.
type knownHosts struct {
	hop   *hop
	found []string // files that are there
	check ssh.HostKeyCallback
	as    string                // the address under which the host is looked up
	known []knownhosts.KnownKey // what the files have for it, in their order
}

// openKnownHosts reads the files for a hop. It reads them for each connection: they are small, and a
// long-lived process must see what has been added or revoked.
func openKnownHosts(h *hop) (*knownHosts, error) {
	k := &knownHosts{hop: h, as: h.address()}
	for _, file := range h.knownHosts {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errs.WithHint(h.fail(stepHostKey, "%w", err), "the user that runs pgx must be able to read '%s'", file)
		}
		_ = f.Close() // nothing was written
		k.found = append(k.found, file)
	}
	var err error
	if k.check, err = knownhosts.New(k.found...); err != nil {
		return nil, errs.WithHint(h.fail(stepHostKey, "%s", k.malformed(err)),
			"correct or remove this line; each is that of ssh-keyscan: host, key type, key")
	}
	k.known = k.lookUp(k.as)
	if len(k.known) == 0 && h.port != 22 {
		// As in OpenSSH a line that names no port is good for all of them.
		plain := net.JoinHostPort(h.host, "22")
		if k.known = k.lookUp(plain); len(k.known) > 0 {
			k.as = plain
		}
	}
	return k, nil
}

// malformed says which line cannot be read. The library begins with "knownhosts: FILE:LINE: ".
func (k *knownHosts) malformed(err error) string {
	text := strings.TrimPrefix(err.Error(), "knownhosts: ")
	for _, file := range k.found {
		if place, ok := strings.CutPrefix(text, file+":"); ok {
			line, why, _ := strings.Cut(place, ": ")
			return fmt.Sprintf("'%s' line %s cannot be read: %s", file, line, strings.TrimPrefix(why, "knownhosts: "))
		}
	}
	return text
}

// lookUp gives the keys of an address: those the library wants to see in place of one that
// nobody has.
func (k *knownHosts) lookUp(address string) []knownhosts.KnownKey {
	nobody, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil { // its size is right
		panic(err)
	}
	var want *knownhosts.KeyError
	errors.As(k.check(address, &net.TCPAddr{}, nobody), &want)
	if want == nil {
		return nil
	}
	return want.Want
}

// isAuthority says whether a line is about the key that signs host keys.
func isAuthority(known knownhosts.KnownKey) bool {
	text, err := os.ReadFile(known.Filename)
	if err != nil {
		return false
	}
	lines := bytes.SplitN(text, []byte("\n"), known.Line+1)
	return len(lines) >= known.Line && bytes.HasPrefix(bytes.TrimSpace(lines[known.Line-1]), []byte("@cert-authority"))
}

// preferred are the host key algorithms to ask for, newest first. SHA-1 is not among them.
var preferred = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// certified are those of hosts whose key an authority has signed.
var certified = []string{
	ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
	ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
}

// algorithms gives the host key algorithms to ask for: first those the files have keys for, in
// their order. A host with several keys would otherwise show one that is not there,
// and seem to have changed.
func (k *knownHosts) algorithms() []string {
	var all []string
	add := func(algorithms ...string) {
		for _, a := range algorithms {
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	for _, known := range k.known {
		switch kind := known.Key.Type(); {
		case isAuthority(known):
			add(certified...)
		case kind == ssh.KeyAlgoRSA:
			add(ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		case slices.Contains(preferred, kind):
			add(kind)
		}
	}
	add(preferred...)
	return all
}

// verify accepts the key of the host or says what is wrong with it, and what to do.
func (k *knownHosts) verify(_ string, remote net.Addr, key ssh.PublicKey) error {
	err := k.check(k.as, remote, key)
	var revoked *knownhosts.RevokedError
	var unknown *knownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		return errs.WithHint(k.hop.fail(stepHostKey, "key %s of '%s' is marked as revoked in %s", show(key), k.hop.address(), at(revoked.Revoked)),
			"do not trust this host until its key has been replaced: ssh-keygen -A there makes new ones where the old are removed")
	case !errors.As(err, &unknown): // a certificate
		return errs.WithHint(k.hop.fail(stepHostKey, "certificate of '%s' is not valid: %s", k.hop.address(), printable(err.Error())),
			"see 'ssh-keygen -L -f' of the HostCertificate there")
	case len(unknown.Want) == 0:
		e := k.hop.fail(stepHostKey, "key %s of '%s' is unknown: it is in none of %s", show(key), k.hop.address(), quoted(k.found))
		if len(k.found) == 0 {
			e = k.hop.fail(stepHostKey, "key %s of '%s' is unknown: none of %s exists", show(key), k.hop.address(), quoted(k.hop.knownHosts))
		}
		return k.hintAdd(k.hintCompare(e, key), key)
	}
	want := slices.DeleteFunc(slices.Clone(unknown.Want), isAuthority)
	if len(want) == 0 {
		return errs.WithHint(k.hop.fail(stepHostKey, "'%s' has shown its key %s without a certificate, but by %s it must have one",
			k.hop.address(), show(key), at(unknown.Want[0])), "is HostCertificate set in sshd_config there?")
	}
	i := slices.IndexFunc(want, func(w knownhosts.KnownKey) bool { return w.Key.Type() == key.Type() })
	if i < 0 {
		known := want[0]
		return k.hintAdd(k.hintCompare(k.hop.fail(stepHostKey, "'%s' has shown its key %s, but %s knows only one of another type, %s",
			k.hop.address(), show(key), at(known), show(known.Key)), key), key)
	}
	known := want[i]
	err = k.hintCompare(k.hop.fail(stepHostKey, "key of '%s' has changed: it is %s, but %s says %s: "+
		"either the host was set up anew or somebody else answers in its place", k.hop.address(), show(key), at(known), show(known.Key)), key)
	err = errs.WithHint(err, "when it is right, remove the old one: ssh-keygen -f '%s' -R '%s'", known.Filename, knownhosts.Normalize(k.as))
	return k.hintAdd(err, key)
}

// hintCompare says how to find out whether the key is that of the host.
func (k *knownHosts) hintCompare(err error, key ssh.PublicKey) error {
	return errs.WithHint(err, "compare the fingerprint on '%s' itself: ssh-keygen -lf /etc/ssh/ssh_host_%s_key.pub", k.hop.alias, family(key))
}

// hintAdd says how to make the key known.
func (k *knownHosts) hintAdd(err error, key ssh.PublicKey) error {
	scan := "ssh-keyscan -t " + family(key)
	if k.hop.port != 22 {
		scan += " -p " + strconv.Itoa(k.hop.port)
	}
	scan += " " + k.hop.host
	if k.hop.before != "" { // it cannot be reached from here
		scan = "ssh " + k.hop.before + " " + scan
	}
	return errs.WithHint(err, "when it is right, add it: %s >> '%s'", scan, k.hop.knownHosts[0])
}

func show(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

func at(known knownhosts.KnownKey) string {
	return fmt.Sprintf("'%s' line %d", known.Filename, known.Line)
}

// family is the type of a key as ssh-keyscan and the names of sshd's files have it.
func family(key ssh.PublicKey) string {
	switch kind := key.Type(); {
	case strings.HasPrefix(kind, "ecdsa"):
		return "ecdsa"
	case kind == ssh.KeyAlgoRSA:
		return "rsa"
	}
	return "ed25519"
}
