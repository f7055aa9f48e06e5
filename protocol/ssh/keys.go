package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/pgx-backup/pgx/internal/errs"
)

// identities are the keys to offer to a hop, best first. A key that cannot be used is no error
// as long as another one opens the door.
type identities struct {
	signers  []ssh.Signer
	names    []string // of the signers
	troubles []trouble
	agent    net.Conn // signs; nil for none
}

// trouble is a key that cannot be used, and the remedy.
type trouble struct {
	what, hint string
	missing    bool // there is no such file
}

func (ids *identities) close() {
	if ids.agent != nil {
		_ = ids.agent.Close() // nothing was written that could be lost
	}
}

// explain adds what is wrong with keys that were not offered.
func (ids *identities) explain(err error) error {
	e := *err.(*errs.Error)
	for _, t := range ids.troubles {
		e.Message += "; " + t.what
		e.Hints = append(e.Hints, t.hint)
	}
	return &e
}

// maxKey is the most that is read as a key file.
const maxKey = 1 << 20

// findKeys collects the keys for a hop: the files, each with its own private half or that
// in ssh-agent, then whatever else ssh-agent has. No usable key at all is an error.
func findKeys(ctx context.Context, h *hop, socket string) (*identities, error) {
	ids := &identities{}
	held := ids.askAgent(ctx, socket)
	offered := make(map[string]bool) // once is enough, and servers count (MaxAuthTries)
	take := func(s ssh.Signer, name string) {
		if id := string(s.PublicKey().Marshal()); !offered[id] {
			offered[id] = true
			ids.signers = append(ids.signers, modern(s))
			ids.names = append(ids.names, name+" "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	for _, file := range h.keys {
		signer, pub, wrong := readKey(file)
		if signer == nil && pub != nil { // the private half may be in ssh-agent
			i := slices.IndexFunc(held, func(s ssh.Signer) bool {
				return bytes.Equal(s.PublicKey().Marshal(), pub.Marshal())
			})
			if i >= 0 {
				signer = held[i]
			}
		}
		switch {
		case signer != nil:
			take(signer, "'"+file+"'")
		case !wrong.missing || h.keysGiven:
			ids.troubles = append(ids.troubles, wrong)
		}
	}
	if !h.keysOnly {
		for _, s := range held {
			take(s, "ssh-agent's")
		}
	}
	if len(ids.signers) > 0 {
		return ids, nil
	}
	ids.close()
	if len(ids.troubles) > 0 {
		return nil, ids.explain(h.fail(stepLogin, "no key can be used"))
	}
	none := "ssh-agent holds none"
	if socket == "" {
		none = "there is no ssh-agent"
	}
	var file string
	if len(h.keys) > 0 {
		file = h.keys[0]
	}
	return nil, errs.WithHint(errs.WithHint(
		h.fail(stepLogin, "there is no key to log in with: none of %s exists and %s", quoted(h.keys), none),
		"make one: ssh-keygen -q -t ed25519 -N '' -f '%s'", file),
		"'pgx ssh-setup' prints the line for authorized_keys on '%s'", h.alias)
}

// askAgent gives the keys that ssh-agent holds.
func (ids *identities) askAgent(ctx context.Context, socket string) []ssh.Signer {
	if socket == "" {
		return nil
	}
	silent := func(err error) []ssh.Signer {
		ids.troubles = append(ids.troubles, trouble{
			fmt.Sprintf("ssh-agent at '%s' does not answer: %v", socket, err), "is SSH_AUTH_SOCK that of an agent that runs?", false,
		})
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return silent(err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		_ = conn.Close()
		return silent(err)
	}
	ids.agent = conn
	return signers
}

// readKey reads a key file. Without signer there is wrong, and pub when the file tells the
// public half, so that ssh-agent may have the private one.
func readKey(file string) (signer ssh.Signer, pub ssh.PublicKey, wrong trouble) {
	info, err := os.Stat(file)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxKey) {
		err = fmt.Errorf("'%s' is not a key file", file)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, trouble{fmt.Sprintf("'%s' does not exist", file), "does IdentityFile name the right file?", true}
	case err != nil:
		return nil, nil, trouble{err.Error(), fmt.Sprintf("the user that runs pgx must be able to read '%s'", file), false}
	}
	if pub, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return nil, pub, trouble{
			fmt.Sprintf("'%s' is a public key and ssh-agent does not have the private one", file),
			"ssh-add the private key, or name its file", false,
		}
	}
	// What OpenSSH refuses, and what anybody could read whoever owns it.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && ownedByUs(info) || mode&0o007 != 0 {
		return nil, nil, trouble{
			fmt.Sprintf("private key '%s' can be read by others (mode %04o)", file, mode), fmt.Sprintf("chmod 600 '%s'", file), false,
		}
	}
	signer, err = ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, publicHalf(file, locked), trouble{
			fmt.Sprintf("private key '%s' has a passphrase and ssh-agent does not have it", file),
			fmt.Sprintf("ssh-add '%s'; for unattended work a key without passphrase: ssh-keygen -q -t ed25519 -N '' -f FILE", file), false,
		}
	case err != nil:
		return nil, nil, trouble{
			fmt.Sprintf("'%s' is not a private key that pgx can read: %s", file, strings.TrimPrefix(err.Error(), "ssh: ")),
			fmt.Sprintf("'ssh-keygen -y -f %s' must print its public half", file), false,
		}
	}
	return signer, nil, trouble{}
}

// publicHalf is in the file itself or, for old formats, in the one beside it.
func publicHalf(file string, locked *ssh.PassphraseMissingError) ssh.PublicKey {
	if locked.PublicKey != nil {
		return locked.PublicKey
	}
	text, err := os.ReadFile(file + ".pub")
	if err != nil {
		return nil
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil
	}
	return pub
}

// modern keeps an RSA key from signing with SHA-1.
func modern(s ssh.Signer) ssh.Signer {
	with, ok := s.(ssh.AlgorithmSigner)
	if !ok || s.PublicKey().Type() != ssh.KeyAlgoRSA {
		return s
	}
	limited, err := ssh.NewSignerWithAlgorithms(with, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
	if err != nil { // cannot sign with SHA-2
		return s
	}
	return limited
}

func quoted(names []string) string {
	if len(names) == 0 {
		return "no files"
	}
	return "'" + strings.Join(names, "', '") + "'"
}
