package sshd

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/pgx-backup/pgx/internal/errs"
)

// AllStanzas in the place of a stanza's name is every stanza.
const AllStanzas = "*"

const grantForm = "ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT]"

// Grant is what a key may do: each of the roles on each of the stanzas. Which roles there are is
// the service's business.
type Grant struct {
	Key     ssh.PublicKey
	Name    string // the comment of the key, else its fingerprint: for messages only
	Roles   []string
	Stanzas []string // AllStanzas among them is every stanza
}

// ParseGrant reads "ROLE[,ROLE] STANZA[,STANZA] KEYTYPE BASE64 [COMMENT]", that is a line of a
// .pub file with roles and stanzas before it: "archive,restore main ssh-ed25519 AAAA… db1".
func ParseGrant(s string) (Grant, error) {
	g, err := parseGrant(s)
	if err != nil {
		err = errs.WithHint(errs.New(errs.OptionInvalidValue, "'%s' is not a grant: %w", shown(s, 60), err),
			"write it as '%s', the last three as in the file of the public key", grantForm)
	}
	return g, err
}

func parseGrant(s string) (Grant, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) && r != '\t' }) {
		// The comment gets into the log.
		return Grant{}, invalid("it has a character that cannot be printed")
	}
	f := strings.Fields(s)
	at := slices.IndexFunc(f, isKeyType)
	switch {
	case at == 0:
		return Grant{}, invalid("roles and stanzas are missing before the key")
	case at == 1:
		return Grant{}, invalid("roles or stanzas are missing before the key")
	case len(f) < 4:
		return Grant{}, invalid("it has %d fields, fewer than 4", len(f))
	case strings.Contains(f[2], "-cert-v01@"):
		return Grant{}, invalid("'%s' is a certificate, only plain keys are accepted", f[2])
	case at > 2 && at+1 < len(f) && strings.HasPrefix(f[at+1], "AAAA"):
		return Grant{}, invalid("'%s' before the key: options are not accepted", strings.Join(f[2:at], " "))
	case at != 2:
		return Grant{}, invalid("'%s' is not a type of key that is accepted (%s)", f[2], strings.Join(keyTypes(), ", "))
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(f[3])
	if err != nil {
		return Grant{}, invalid("the key is not base64, or not all of it is there")
	}
	g := Grant{Roles: strings.Split(f[0], ","), Stanzas: strings.Split(f[1], ","), Name: strings.Join(f[4:], " ")}
	if g.Key, err = ssh.ParsePublicKey(blob); err != nil {
		return Grant{}, invalid("the key is damaged: %s", shown(strings.TrimPrefix(err.Error(), "ssh: "), 200))
	}
	if g.Key.Type() != f[2] {
		return Grant{}, invalid("the key says '%s' but is '%s'", f[2], shown(g.Key.Type(), 60))
	}
	if g.Name == "" {
		g.Name = ssh.FingerprintSHA256(g.Key)
	}
	return g, g.check()
}

func invalid(format string, args ...any) error {
	return errs.New(errs.OptionInvalidValue, format, args...)
}

// check says what is wrong with a grant, whoever made it.
func (g Grant) check() error {
	if g.Key == nil || !isKeyType(g.Key.Type()) {
		return invalid("it has no key")
	}
	if len(g.Roles) == 0 || len(g.Stanzas) == 0 {
		return invalid("it has no role or no stanza")
	}
	for _, role := range g.Roles {
		if role == "" || strings.Trim(role, "abcdefghijklmnopqrstuvwxyz-") != "" {
			return invalid("'%s' is not a role", role)
		}
	}
	for _, stanza := range g.Stanzas {
		switch {
		case stanza == AllStanzas:
		case stanza == "" || stanza == "." || stanza == ".." || strings.Contains(stanza, "/"):
			return invalid("'%s' is not a stanza", stanza)
		case strings.Contains(stanza, AllStanzas):
			return invalid("'%s' is not a stanza: '%s' alone is every stanza, there are no patterns", stanza, AllStanzas)
		}
	}
	return nil
}

// keyTypes are the keys a client may have. Neither DSA nor SHA-1 signatures of RSA are
// accepted.
func keyTypes() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256}
}

func isKeyType(s string) bool { return slices.Contains(keyTypes(), s) }

// String gives what ParseGrant reads.
func (g Grant) String() string {
	f := []string{strings.Join(g.Roles, ","), strings.Join(g.Stanzas, ","), g.Key.Type(),
		base64.StdEncoding.EncodeToString(g.Key.Marshal())}
	if g.Name != ssh.FingerprintSHA256(g.Key) {
		f = append(f, g.Name)
	}
	return strings.Join(f, " ")
}

// Permits says whether the grant has this role on this stanza.
func (g Grant) Permits(role, stanza string) bool {
	return slices.Contains(g.Roles, role) &&
		(slices.Contains(g.Stanzas, stanza) || slices.Contains(g.Stanzas, AllStanzas))
}

// shown makes foreign text fit for a line of a message.
func shown(s string, limit int) string {
	r := []rune(s)
	if len(r) > limit {
		r = append(r[:limit], '…')
	}
	for i := range r {
		if !unicode.IsPrint(r[i]) {
			r[i] = '?'
		}
	}
	return string(r)
}
