package ssh

import (
	"context"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Setup is what a person has to know to let a Client in.
type Setup struct {
	User, Host string // as whom and where it logs in
	Port       int

	KeyFile    string // the private key that is offered first, or the one to be made
	PublicKey  string // its line for authorized_keys, empty when there is no key
	KnownHosts string // the file that a host key is added to
}

// Setup tells what the Client would log in with. Nothing is connected. A key that is there and
// cannot be used is left for Open to tell.
func (c *Client) Setup(ctx context.Context) (Setup, error) {
	if c.err != nil {
		return Setup{}, c.err
	}
	h := c.target()
	s := Setup{User: h.user, Host: h.host, Port: h.port}
	if len(h.knownHosts) > 0 {
		s.KnownHosts = h.knownHosts[0]
	}
	for _, file := range h.keys {
		signer, pub, _ := readKey(file)
		if signer != nil {
			pub = signer.PublicKey()
		}
		if pub != nil {
			s.KeyFile, s.PublicKey = file, c.line(pub)
			return s, nil
		}
	}
	if len(h.keys) > 0 {
		s.KeyFile = h.keys[0]
	}
	ids, err := findKeys(ctx, h, c.c.AgentSocket)
	if err != nil {
		return s, nil // that there is none
	}
	defer ids.close()
	s.KeyFile, s.PublicKey = "", c.line(ids.signers[0].PublicKey())
	return s, nil
}

// line gives a key as authorized_keys has it, with the local user and host as comment.
func (c *Client) line(key ssh.PublicKey) string {
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	if name, err := os.Hostname(); err == nil {
		text += " " + c.c.User + "@" + name
	}
	return text
}
