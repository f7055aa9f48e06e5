package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kevinburke/ssh_config"

	"github.com/pgx-backup/pgx/internal/errs"
)

// hop is one host on the way, with what is needed to log in there.
type hop struct {
	alias string // as configured
	host  string // what is connected to (HostName)
	port  int
	user  string

	label   string // how errors begin
	option  string // of the host at the end, for hints
	before  string // alias of the hop before, empty for the first
	between bool   // not the host at the end

	keys       []string // identity files
	keysGiven  bool     // by ~/.ssh/config, so they should be there
	keysOnly   bool     // IdentitiesOnly
	knownHosts []string // files, the first is where a key is to be added
}

func (h *hop) String() string { return h.user + "@" + net.JoinHostPort(h.alias, strconv.Itoa(h.port)) }

// address is what is connected to.
func (h *hop) address() string { return net.JoinHostPort(h.host, strconv.Itoa(h.port)) }

const (
	// maxHops bounds what ProxyJump lines can refer one another to.
	maxHops = 8
	// maxInclude is how deep files may include one another, as in OpenSSH's limit of 16
	// but within what the library reads.
	maxInclude = 5
	// globalKnownHosts is asked after the user's own file.
	globalKnownHosts = "/etc/ssh/ssh_known_hosts"
)

// resolver answers what ~/.ssh/config says.
type resolver struct {
	c      Config
	host   Host
	path   string
	parsed *ssh_config.Config // nil when there is no file
}

// findRoute gives the hops to the host, itself last.
func findRoute(h Host, c Config) ([]hop, error) {
	if !filepath.IsAbs(c.Home) {
		// Else keys and known hosts would be looked for in the working directory.
		return nil, errs.WithHint(errs.New(errs.Config, "'%s': the home directory of user '%s' is not known, and with it ~/.ssh", h.Name, c.User),
			"set HOME for this command; users of a directory service are not in /etc/passwd")
	}
	r := resolver{c: c, host: h, path: c.ConfigFile}
	if r.path == "" {
		r.path = filepath.Join(c.Home, ".ssh", "config")
	}
	if err := r.load(); err != nil {
		return nil, errs.WrapAs(errs.Config, err, "'%s'", h.Name)
	}
	if h.User == "" && h.DefaultUser == "" {
		h.DefaultUser = c.User
	}
	route, err := r.route(jump{h.User, h.Name, h.Port}, h.DefaultUser, 0)
	if err != nil {
		return nil, errs.WrapAs(errs.Config, err, "'%s'", h.Name)
	}
	last := &route[len(route)-1]
	for i := range route {
		route[i].option = h.Option
		route[i].label = "'" + last.String() + "'"
		if i > 0 {
			route[i].before = route[i-1].alias
		}
		if i < len(route)-1 {
			route[i].between = true
			route[i].label += ": hop '" + route[i].String() + "'"
		}
	}
	return route, nil
}

// load reads the file, if there is one or must be.
func (r *resolver) load() error {
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) && r.c.ConfigFile == "" {
		return nil
	}
	if err == nil && info.Mode().Perm()&0o022 != 0 && info.Mode().IsRegular() {
		return errs.WithHint(errs.New(errs.Config, "'%s' can be written by others (mode %04o)", r.path, info.Mode().Perm()),
			"chmod 600 '%s'", r.path)
	}
	text, err := os.ReadFile(r.path)
	if err != nil {
		return err
	}
	if err := vet(r.path, text, r.c.Home, 0); err != nil {
		return err
	}
	if r.parsed, err = decode(text); err != nil {
		return errs.New(errs.Config, "'%s': %w", r.path, err)
	}
	return nil
}

// decode is ssh_config.Decode for lines that vet has seen. The library panics on some texts.
func decode(text []byte) (c *ssh_config.Config, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot be read: %v", p)
		}
	}()
	return ssh_config.DecodeBytes(append(bytes.Clone(text), '\n'))
}

// vet looks through a file, and those it includes, for lines that the library would not
// understand or would silently understand otherwise than OpenSSH does.
func vet(path string, text []byte, home string, depth int) error {
	if depth > maxInclude {
		return errs.New(errs.Config, "'%s' is included more than %d levels deep", path, maxInclude)
	}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		keyword, value := keyValue(string(line))
		wrong := func(format string, args ...any) error {
			return errs.New(errs.Config, "'%s' line %d: %s", path, number, fmt.Sprintf(format, args...))
		}
		switch {
		case keyword == "":
			continue
		case strings.ContainsRune(string(line), 0):
			return wrong("not a text")
		case value == "":
			return wrong("'%s' has no value", keyword)
		}
		switch strings.ToLower(keyword) {
		case "match":
			if !strings.EqualFold(value, "all") {
				return errs.WithHint(wrong("pgx understands no Match lines but 'Match all'"),
					"use a Host line, or give pgx a file of its own")
			}
		case "include":
			for _, pattern := range strings.Fields(value) {
				switch below, ok := strings.CutPrefix(pattern, "~/"); {
				case ok:
					pattern = filepath.Join(home, below)
				case !filepath.IsAbs(pattern):
					pattern = filepath.Join(home, ".ssh", pattern)
				}
				files, err := filepath.Glob(pattern)
				if err != nil {
					return wrong("'%s' is not a pattern of files", pattern)
				}
				for _, file := range files {
					included, err := os.ReadFile(file)
					if err != nil {
						return wrong("%v", err)
					}
					if err := vet(file, included, home, depth+1); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// keyValue splits a line into keyword and value, both empty for a comment.
func keyValue(line string) (keyword, value string) {
	line, _, _ = strings.Cut(line, "#")
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, " \t=")
	if i < 0 {
		return line, ""
	}
	value = strings.TrimLeft(line[i:], " \t")
	value = strings.TrimPrefix(value, "=")
	return line[:i], strings.TrimSpace(value)
}

// get gives the first value for the alias, empty when there is none.
func (r *resolver) get(alias, key string) (string, error) {
	if r.parsed == nil {
		return "", nil
	}
	return r.parsed.Get(alias, key)
}

// route gives the hops to j.
func (r *resolver) route(j jump, defaultUser string, depth int) ([]hop, error) {
	if depth >= maxHops {
		return nil, errs.New(errs.Config, "'%s': ProxyJump of '%s' leads over more than %d hosts or in a circle", r.path, j.host, maxHops)
	}
	h, err := r.hop(j, defaultUser)
	if err != nil {
		return nil, err
	}
	list, err := r.get(j.host, "ProxyJump")
	if err != nil {
		return nil, err
	}
	if list == "" || strings.EqualFold(list, "none") {
		command, err := r.get(j.host, "ProxyCommand")
		if err != nil {
			return nil, err
		}
		if command != "" && !strings.EqualFold(command, "none") && list == "" {
			return nil, errs.WithHint(errs.New(errs.Config, "'%s': pgx does not run the ProxyCommand of '%s'", r.path, j.host),
				"use ProxyJump, or say 'ProxyJump none' to connect without it")
		}
		return []hop{h}, nil
	}
	list, err = expand(list, map[byte]string{'h': h.host, 'n': h.alias, 'p': strconv.Itoa(h.port), 'r': h.user})
	if err != nil {
		return nil, errs.New(errs.Config, "'%s': ProxyJump of '%s': %w", r.path, j.host, err)
	}
	var route []hop
	for i, name := range strings.Split(list, ",") {
		through, err := parseJump(name)
		if err != nil {
			return nil, errs.New(errs.Config, "'%s': ProxyJump of '%s': %w", r.path, j.host, err)
		}
		// Only the first one's own ProxyJump counts; the others are reached from it.
		if i == 0 {
			route, err = r.route(through, r.c.User, depth+1)
		} else {
			var next hop
			next, err = r.hop(through, r.c.User)
			route = append(route, next)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(route) >= maxHops {
		return nil, errs.New(errs.Config, "'%s': ProxyJump of '%s' leads over more than %d hosts or in a circle", r.path, j.host, maxHops)
	}
	return append(route, h), nil
}

// hop resolves one host. What j says wins over the file.
func (r *resolver) hop(j jump, defaultUser string) (hop, error) {
	h := hop{alias: j.host, user: j.user, port: j.port}
	wrong := func(key string, err error) (hop, error) {
		return hop{}, errs.New(errs.Config, "'%s': %s of '%s': %w", r.path, key, j.host, err)
	}
	value, err := r.get(j.host, "HostName")
	if err == nil {
		h.host, err = expand(value, map[byte]string{'h': j.host})
	}
	if err != nil {
		return wrong("HostName", err)
	}
	if h.host == "" {
		h.host = j.host
	}
	h.host = strings.ToLower(h.host)
	if h.user == "" {
		if h.user, err = r.get(j.host, "User"); err != nil {
			return wrong("User", err)
		}
	}
	if h.user == "" {
		h.user = defaultUser
	}
	if h.port == 0 {
		h.port = 22
		if value, err = r.get(j.host, "Port"); err == nil && value != "" {
			h.port, err = parsePort(value)
		}
		if err != nil {
			return wrong("Port", err)
		}
	}
	only, err := r.get(j.host, "IdentitiesOnly")
	if err != nil {
		return wrong("IdentitiesOnly", err)
	}
	h.keysOnly = strings.EqualFold(only, "yes")

	tokens := map[byte]string{
		'd': r.c.Home, 'h': h.host, 'n': h.alias, 'p': strconv.Itoa(h.port), 'r': h.user, 'u': r.c.User,
	}
	var files []string
	if r.parsed != nil {
		if files, err = r.parsed.GetAll(j.host, "IdentityFile"); err != nil {
			return wrong("IdentityFile", err)
		}
	}
	h.keysGiven = len(files) > 0
	if !h.keysGiven {
		files = []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}
	}
	if h.keys, err = r.paths(files, tokens); err != nil {
		return wrong("IdentityFile", err)
	}
	if value, err = r.get(j.host, "UserKnownHostsFile"); err != nil {
		return wrong("UserKnownHostsFile", err)
	}
	if value == "" {
		value = "~/.ssh/known_hosts"
	}
	if h.knownHosts, err = r.paths(strings.Fields(value), tokens); err != nil {
		return wrong("UserKnownHostsFile", err)
	}
	h.knownHosts = append(h.knownHosts, globalKnownHosts)
	return h, nil
}

// paths expands names of files. Relative ones are those of the home directory's .ssh: pgx
// runs in any directory.
func (r *resolver) paths(names []string, tokens map[byte]string) ([]string, error) {
	var paths []string
	for _, name := range names {
		name = strings.Trim(name, `"`)
		if strings.EqualFold(name, "none") {
			continue
		}
		if strings.Contains(name, "${") {
			return nil, fmt.Errorf("'%s': pgx expands no environment variables here", name)
		}
		path, err := expand(name, tokens)
		if err != nil {
			return nil, err
		}
		if path == "~" || strings.HasPrefix(path, "~/") {
			path = filepath.Join(r.c.Home, path[1:])
		}
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("'%s' is not an absolute path and does not begin with ~/", name)
		}
		if !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// expand replaces %x by the token x.
func expand(s string, tokens map[byte]string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", fmt.Errorf("'%s' ends with a single %%", s)
		}
		token, ok := tokens[s[i]]
		switch {
		case s[i] == '%':
			token = "%"
		case !ok:
			return "", fmt.Errorf("pgx does not expand %%%c in '%s'", s[i], s)
		}
		out.WriteString(token)
	}
	return out.String(), nil
}

// jump is an element of ProxyJump, and in general a name to resolve.
type jump struct {
	user string
	host string
	port int
}

// parseJump reads [user@]host[:port] or ssh://[user@]host[:port].
func parseJump(s string) (jump, error) {
	var j jump
	rest := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "ssh://"), "/")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if j.user, rest = rest[:i], rest[i+1:]; j.user == "" {
			return jump{}, fmt.Errorf("'%s' has no user before the @", s)
		}
	}
	j.host = rest
	bare, bracketed := strings.CutPrefix(rest, "[")
	switch {
	case bracketed && strings.HasSuffix(bare, "]"):
		j.host = bare[:len(bare)-1]
	case bracketed || strings.Count(rest, ":") == 1: // more of them are an IPv6 address
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			return jump{}, fmt.Errorf("'%s' is not [user@]host[:port]", s)
		}
		if j.port, err = parsePort(port); err != nil {
			return jump{}, err
		}
		j.host = host
	}
	if j.host == "" || strings.ContainsAny(j.host, " \t[]/@") {
		return jump{}, fmt.Errorf("'%s' is not [user@]host[:port]", s)
	}
	return j, nil
}

func parsePort(s string) (int, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("'%s' is not a port", s)
	}
	return int(port), nil
}

// ownedByUs says whether the file belongs to the user pgx runs as.
func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
