package repo

import (
	"bytes"
	"context"
	"sync"

	"github.com/pgx-backup/pgx/internal/cipher"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/repo/format/info"
)

// Encryption of a repository is a tree of passphrases. That of the configuration encrypts the
// info files and nothing else. archive.info has the one of all WAL and history files, backup.info
// the one of the manifests; a full backup makes one for its files, which its manifest has
// and all backups that refer to it take over. All but the first are made at random.

// Seal encrypts the info files of a repository.
type Seal struct {
	Name string      // of the repository, such as "repo1"
	Pass cipher.Pass // none: they are kept as they are
}

// Close gives what is stored of the text of an info file.
func (s Seal) Close(text []byte) []byte { return cipher.Seal(s.Pass, text) }

// begin is what the text of every info file begins with.
const begin = "[backrest]"

// Open gives the text of an info file. That repository and configuration do not agree about
// encryption is told as what it is, a Crypto error; path names the file.
func (s Seal) Open(path string, stored []byte) ([]byte, error) {
	encrypted := bytes.HasPrefix(stored, []byte(cipher.Magic))
	if !s.Pass.Given() {
		if encrypted {
			err := errs.New(errs.Crypto, "'%s' is encrypted, but %s-cipher-type is not set", path, s.Name)
			return nil, errs.WithHint(err, "set %s-cipher-type=%s, and %s-cipher-pass to what the stanza was created with, on the host of the repository",
				s.Name, cipher.Name, s.Name)
		}
		return stored, nil
	}
	if bytes.HasPrefix(stored, []byte(begin)) {
		err := errs.New(errs.Crypto, "'%s' is not encrypted, but %s-cipher-type is '%s'", path, s.Name, cipher.Name)
		return nil, errs.WithHint(err, "a repository is encrypted from its first stanza-create on, or never:"+
			" leave %s-cipher-type out, or set %s-path to an empty directory", s.Name, s.Name)
	}
	text, err := cipher.Open(s.Pass, stored)
	switch {
	case encrypted && (errs.CodeOf(err) == errs.Crypto || err == nil && !bytes.HasPrefix(text, []byte(begin))):
		// The padding of one in 256 wrong texts is right by chance.
		err = errs.New(errs.Crypto, "unable to decrypt '%s': the passphrase of %s is wrong, or the file is damaged", path, s.Name)
		return nil, errs.WithHint(err, "is %s-cipher-pass the one the stanza was created with?", s.Name)
	case err != nil:
		return nil, errs.Wrap(err, "unable to decrypt '%s'", path)
	}
	return text, nil
}

// keys are the passphrases that the info files have, as far as these were loaded. The last
// that was loaded counts: the stanza may have been made anew.
type keys struct {
	mu              sync.Mutex
	archive, backup cipher.Pass
}

// keep remembers the passphrase of an info file that was loaded or made, which there has to be
// if the repository is encrypted.
func (r *Repo) keep(s *info.Stanza, name string, to *cipher.Pass) error {
	pass := cipher.NewPass(s.CipherPass)
	switch {
	case r.encrypted && !pass.Given():
		return errs.New(errs.Crypto, "%s of %s has no passphrase, though %s is encrypted", name, r.Name(), r.Name())
	case !r.encrypted && pass.Given():
		return errs.WithHint(errs.New(errs.Crypto, "%s of %s has a passphrase, though %s is not encrypted", name, r.Name(), r.Name()),
			"set %s-cipher-type and %s-cipher-pass on the host of the repository", r.Name(), r.Name())
	}
	r.keys.mu.Lock()
	defer r.keys.mu.Unlock()
	*to = pass
	return nil
}

// known gives a passphrase that was kept.
func (r *Repo) known(p *cipher.Pass) cipher.Pass {
	r.keys.mu.Lock()
	defer r.keys.mu.Unlock()
	return *p
}

// Encrypted says whether the repository is encrypted.
func (r *Repo) Encrypted() bool { return r.encrypted }

// ArchivePass gives what WAL is encrypted with, none if it is not. It is in archive.info, which
// is loaded only if it has not been.
func (r *Repo) ArchivePass(ctx context.Context) (cipher.Pass, error) {
	if !r.encrypted {
		return cipher.Pass{}, nil
	}
	if p := r.known(&r.keys.archive); p.Given() {
		return p, nil
	}
	_, err := r.ArchiveInfo(ctx)
	return r.known(&r.keys.archive), err
}

// manifestPass gives what manifests are encrypted with.
func (r *Repo) manifestPass(ctx context.Context) (cipher.Pass, error) {
	if !r.encrypted {
		return cipher.Pass{}, nil
	}
	if p := r.known(&r.keys.backup); p.Given() {
		return p, nil
	}
	_, err := r.BackupInfo(ctx)
	return r.known(&r.keys.backup), err
}

// NewPass makes a passphrase for what an info file, or the manifest of a full backup, describes:
// "" if the repository is not encrypted.
func (r *Repo) NewPass() string {
	if !r.encrypted {
		return ""
	}
	return cipher.Generate().Reveal()
}
