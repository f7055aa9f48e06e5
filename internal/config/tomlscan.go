package config

import "strings"

// tomlItem is a line of a TOML file, or the several lines of one value. It serves to
// find lines and to keep comments; what a value is, the TOML library says.
type tomlItem struct {
	kind     iniKind  // iniSection is a table
	path     []string // of the table, or of the key with its tables
	comment  string   // of a comment line, with its '#'
	comments []string // behind or within a value or a table's name
	line     int
}

// scanTOML goes through a TOML file that is known to be well formed. One that is not
// gives some items and no harm.
func scanTOML(text string) []tomlItem {
	s := tomlScan{text: strings.TrimPrefix(text, "\xef\xbb\xbf"), line: 1}
	var items []tomlItem
	var table []string
	for s.pos < len(s.text) {
		s.blanks()
		item := tomlItem{line: s.line}
		switch s.peek() {
		case '\n', '\r', 0:
			item.kind = iniBlank
		case '#':
			item.kind, item.comment = iniComment, s.untilNewline()
		case '[':
			item.kind = iniSection
			for s.peek() == '[' {
				s.pos++
			}
			table = s.key(']')
			item.path = table
			for s.peek() == ']' {
				s.pos++
			}
			item.comments = s.value()
		default:
			item.kind = iniKey
			key := s.key('=')
			item.path = append(table[:len(table):len(table)], key...)
			if s.peek() == '=' {
				s.pos++
			}
			item.comments = s.value()
		}
		s.untilNewline()
		if s.pos < len(s.text) {
			s.pos++ // the newline
			s.line++
		}
		items = append(items, item)
	}
	return items
}

type tomlScan struct {
	text      string
	pos, line int
}

func (s *tomlScan) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *tomlScan) blanks() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.pos++
	}
}

func (s *tomlScan) untilNewline() string {
	s.pos = min(s.pos, len(s.text)) // past the end after a backslash that ends the file
	rest := s.text[s.pos:]
	if i := strings.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	s.pos += len(rest)
	return strings.TrimRight(rest, " \t\r")
}

// key reads a dotted key up to an end sign, which it leaves.
func (s *tomlScan) key(end byte) []string {
	var parts []string
	var part strings.Builder
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; c {
		case end, '\n':
			return append(parts, part.String())
		case ' ', '\t', '\r':
			s.pos++
		case '.':
			parts = append(parts, part.String())
			part.Reset()
			s.pos++
		case '"', '\'':
			part.WriteString(s.quoted(c))
		default:
			part.WriteByte(c)
			s.pos++
		}
	}
	return append(parts, part.String())
}

// quoted reads a string of one line. Of the escapes only those that a key of ours can
// need are undone.
func (s *tomlScan) quoted(quote byte) string {
	var b strings.Builder
	for s.pos++; s.pos < len(s.text) && s.text[s.pos] != '\n'; s.pos++ {
		c := s.text[s.pos]
		if c == quote {
			s.pos++
			break
		}
		if c == '\\' && quote == '"' && s.pos+1 < len(s.text) && s.text[s.pos+1] != '\n' {
			s.pos++
			c = s.text[s.pos]
		}
		b.WriteByte(c)
	}
	return b.String()
}

// value passes over a value up to the end of its last line and gives the comments in
// it.
func (s *tomlScan) value() (comments []string) {
	depth := 0
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '\n' && depth <= 0:
			return comments
		case c == '\n':
			s.line++
			s.pos++
		case c == '#':
			comments = append(comments, s.untilNewline())
		case c == '[' || c == '{':
			depth++
			s.pos++
		case c == ']' || c == '}':
			depth--
			s.pos++
		case strings.HasPrefix(s.text[s.pos:], `"""`) || strings.HasPrefix(s.text[s.pos:], "'''"):
			s.longString(s.text[s.pos : s.pos+3])
		case c == '"' || c == '\'':
			s.quoted(c)
		default:
			s.pos++
		}
	}
	return comments
}

func (s *tomlScan) longString(quote string) {
	for s.pos += 3; s.pos < len(s.text); s.pos++ {
		if strings.HasPrefix(s.text[s.pos:], quote) {
			s.pos += 3
			for s.pos < len(s.text) && s.text[s.pos] == quote[0] { // quotes before the end
				s.pos++
			}
			return
		}
		switch {
		case s.text[s.pos] == '\n':
			s.line++
		case s.text[s.pos] == '\\' && quote[0] == '"':
			s.pos++
			if s.peek() == '\n' {
				s.line++
			}
		}
	}
}

// lineOfTOML finds where a key stands in the table of that name, 0 when it does not.
func lineOfTOML(data []byte, table, key string) int {
	for _, item := range scanTOML(string(data)) {
		if n := len(item.path); n > 0 && item.path[n-1] == key && pathText(item.path[:n-1]) == table {
			return item.line
		}
	}
	return 0
}
