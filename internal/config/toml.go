package config

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/pgx-backup/pgx/internal/errs"
)

// The tables of pgx.toml: [global], [global.COMMAND], [stanza.NAME],
// [stanza.NAME.COMMAND]. Keys are the options of pgbackrest.conf. Booleans and
// whole numbers may be native, sizes and times are strings, lists are arrays, hashes
// are tables (or arrays of "key=value").
const tomlStanza = "stanza"

// readTOML reads a pgx.toml into d.
func (d *document) readTOML(file *file) error {
	root := map[string]any{}
	meta, err := toml.Decode(string(file.data), &root)
	if err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			message := strings.TrimPrefix(parse.Message, "toml: ")
			if lines := strings.Split(string(file.data), "\n"); namesSecret(parse.LastKey) ||
				parse.Position.Line > 0 && parse.Position.Line <= len(lines) && namesSecret(lines[parse.Position.Line-1]) {
				// It may quote the value.
				message = "a secret cannot be read (is it between quotes?)"
			}
			return errs.New(errs.Format, "%s at line %d", message, parse.Position.Line)
		}
		return errs.New(errs.Format, "%w", err)
	}
	ordered := keyOrder(meta.Keys())
	for _, top := range ordered.of(nil, root) {
		sub, is := root[top].(map[string]any)
		switch {
		case !is:
			return errs.New(errs.Format, "key '%s' stands outside of a table at line %d", top, lineOfTOML(file.data, "", top))
		case top == sectionGlobalName:
			if err := d.readTable(file, ordered, []string{top}, sectionGlobalName, sub); err != nil {
				return err
			}
		case top == tomlStanza:
			for _, name := range ordered.of([]string{top}, sub) {
				table, is := sub[name].(map[string]any)
				switch {
				case !is:
					return errs.New(errs.Format, "key '%s' stands in [stanza] itself, not in [stanza.NAME], at line %d",
						name, lineOfTOML(file.data, tomlStanza, name))
				case name == "" || name == sectionGlobalName || strings.Contains(name, ":"):
					return errs.New(errs.Format, "'%s' cannot be the name of a stanza", name)
				}
				if err := d.readTable(file, ordered, []string{top, name}, name, table); err != nil {
					return err
				}
			}
		default:
			d.tables = append(d.tables, top)
		}
	}
	return nil
}

// readTable reads the options of one table; tables in it are hashes where their name
// is that of an option and those of a command elsewhere.
func (d *document) readTable(file *file, ordered order, path []string, section string, table map[string]any) error {
	written := pathText(path)
	for _, key := range ordered.of(path, table) {
		if sub, is := table[key].(map[string]any); is && !isHash(key) {
			if len(path) > 1 && path[0] == sectionGlobalName || len(path) > 2 {
				return errs.New(errs.Format, "table '[%s]' has no meaning", pathText(append(path, key)))
			}
			if err := d.readTable(file, ordered, append(path[:len(path):len(path)], key), section+":"+key, sub); err != nil {
				return err
			}
			continue
		}
		values, native, err := tomlValues(table[key], ordered, append(path[:len(path):len(path)], key))
		if err != nil {
			line := lineOfTOML(file.data, written, key)
			return errs.New(errs.OptionInvalidValue, "'%s' in [%s] at line %d %w", key, written, line, err)
		}
		e := d.entry(section, written, key, native, file)
		e.values = append(e.values, values...)
	}
	return nil
}

// isHash says whether a key names an option that takes key=value pairs.
func isHash(key string) bool {
	f, err := lookup(key, false, true)
	return err == nil && f.ok && table[f.option].typ == typeHash
}

// tomlValues gives the values of a key as they would stand in pgbackrest.conf.
func tomlValues(value any, ordered order, path []string) (values []string, native string, err error) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			text, _, err := tomlScalar(item)
			if err != nil {
				return nil, "", err
			}
			values = append(values, text)
		}
		return values, "", nil
	case map[string]any:
		for _, key := range ordered.of(path, v) {
			text, _, err := tomlScalar(v[key])
			if err != nil {
				return nil, "", err
			}
			if strings.Contains(key, "=") {
				return nil, "", fmt.Errorf("has a key with '=' in it")
			}
			values = append(values, key+"="+text)
		}
		return values, "", nil
	}
	text, native, err := tomlScalar(value)
	return []string{text}, native, err
}

func tomlScalar(value any) (text, native string, err error) {
	switch v := value.(type) {
	case string:
		return v, "", nil
	case bool:
		if v {
			return "y", "boolean", nil
		}
		return "n", "boolean", nil
	case int64:
		return strconv.FormatInt(v, 10), "integer", nil
	}
	return "", "", fmt.Errorf("must be a string, a whole number, true or false, or an array or table of these")
}

// order remembers in which order the keys of each table stand.
type order map[string][]string

func keyOrder(keys []toml.Key) order {
	o := order{}
	seen := map[string]bool{}
	for _, k := range keys {
		// A table that only its parts name, as [stanza.demo] does [stanza], has no
		// key of its own.
		for n := 1; n <= len(k); n++ {
			if full := strings.Join(k[:n], "\x00"); !seen[full] {
				seen[full] = true
				parent := strings.Join(k[:n-1], "\x00")
				o[parent] = append(o[parent], k[n-1])
			}
		}
	}
	return o
}

// of gives the keys of the table at path.
func (o order) of(path []string, table map[string]any) []string {
	var keys []string
	for _, k := range o[strings.Join(path, "\x00")] {
		if _, is := table[k]; is {
			keys = append(keys, k)
		}
	}
	if len(keys) < len(table) { // should the metadata ever leave one out
		known := map[string]bool{}
		for _, k := range keys {
			known[k] = true
		}
		var rest []string
		for k := range table {
			if !known[k] {
				rest = append(rest, k)
			}
		}
		sort.Strings(rest)
		keys = append(keys, rest...)
	}
	return keys
}

// pathText writes the name of a table as TOML does.
func pathText(path []string) string {
	parts := make([]string, len(path))
	for i, p := range path {
		parts[i] = tomlKey(p)
	}
	return strings.Join(parts, ".")
}

// tomlKey writes a key, in quotes where TOML asks for them.
func tomlKey(key string) string {
	bare := key != ""
	for _, r := range key {
		bare = bare && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}
	if bare {
		return key
	}
	return tomlString(key)
}

// tomlString writes a string, between single quotes where that spares escapes.
func tomlString(s string) string {
	plain := true
	for _, r := range s {
		plain = plain && r >= ' ' && r != 0x7f
	}
	if plain && !strings.Contains(s, "'") && strings.ContainsAny(s, `"\`) {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func itoa(n int) string { return strconv.Itoa(n) }
