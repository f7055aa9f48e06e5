package config

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// These tests look at the table itself, which nobody outside of the package can see.

var update = flag.Bool("update", false, "write docs/reference.md anew")

func TestTableIsConsistent(t *testing.T) {
	names := map[string]bool{}
	for i := range table {
		row := &table[i]
		o := Option(i)
		if i > 0 && table[i-1].name >= row.name {
			t.Errorf("%s: not in order", row.name)
		}
		if row.summary == "" || !strings.HasSuffix(row.summary, ".") || row.more != "" && !strings.HasSuffix(row.more, ".") {
			t.Errorf("%s: explained by %q, %q", row.name, row.summary, row.more)
		}
		if (row.group != groupNone) != strings.HasPrefix(row.name, groupNames[row.group]+"-") && row.group != groupNone {
			t.Errorf("%s: not in group %s", row.name, groupNames[row.group])
		}
		if (row.own|row.unseen)&^row.commands != 0 || row.own&row.unseen != 0 || row.requiredFor&^row.commands != 0 || row.optionalFor&^row.commands != 0 {
			t.Errorf("%s: says something of commands that do not know it", row.name)
		}
		for _, old := range row.old {
			if names[old.name] || (!old.indexed && !old.plain) {
				t.Errorf("%s: old name %s", row.name, old.name)
			}
			names[old.name] = true
		}
		for c := Command(0); c < commandTotal; c++ {
			if row.commands.has(c) {
				checkFor(t, o, c)
			}
		}
	}
	if order := resolveOrder(); len(order) != optionTotal {
		t.Errorf("%d options are resolved", len(order))
	}
	for i := range commands {
		if commands[i].name == "" || commands[i].summary == "" || commands[i].text == "" {
			t.Errorf("command %d: %+v", i, commands[i])
		}
	}
}

// checkFor looks at an option as one command sees it.
func checkFor(t *testing.T, o Option, c Command) {
	row := &table[o]
	if n := row.need(c); n != nil && !table[n.option].commands.has(c) {
		t.Errorf("%s needs %s, which %s does not know", o, n.option, c)
	}
	matches := []string{""}
	for _, w := range row.rangeWhen {
		matches = append(matches, w.when)
	}
	for _, m := range matches {
		text, is := row.defaultFor(c, m, "/usr/bin/pgx")
		if !is {
			continue
		}
		l := &loader{cfg: &Config{Command: c}, target: c}
		g := &given{values: []string{text}, negate: row.typ == typeBoolean && text == "n"}
		var v value
		if err := l.read(&v, o, 1, g, m, 0); err != nil {
			t.Errorf("%s: default for %s: %v", o, c, err)
		}
		if row.typ == typeBoolean && text != "y" && text != "n" {
			t.Errorf("%s: default %s", o, text)
		}
	}
	if row.typ == typeBoolean && row.def == "" && o != OptChecksumPage {
		t.Errorf("%s: a boolean without default", o)
	}
}

func TestNumbers(t *testing.T) {
	const bad = -1 << 63
	for _, test := range []struct {
		typ  optionType
		text string
		want int64
	}{
		{typeSize, "0", 0}, {typeSize, "10", 10}, {typeSize, "10b", 10}, {typeSize, "10B", 10}, {typeSize, "1k", 1 << 10},
		{typeSize, "1KB", 1 << 10}, {typeSize, "1KiB", 1 << 10}, {typeSize, "2mib", 2 << 20}, {typeSize, "3g", 3 << 30},
		{typeSize, "4TB", 4 << 40}, {typeSize, "5PiB", 5 << 50}, {typeSize, "", bad}, {typeSize, "k", bad}, {typeSize, "1.5k", bad},
		{typeSize, "-1", bad}, {typeSize, "+1", bad}, {typeSize, "1ki", bad}, {typeSize, "1bb", bad}, {typeSize, "1kk", bad},
		{typeSize, "8192p", bad}, {typeSize, "1 k", bad}, {typeSize, "99999999999999999999", bad},
		{typeTime, "0", 0}, {typeTime, "10", 10_000}, {typeTime, "10s", 10_000}, {typeTime, "10MS", 10}, {typeTime, "2m", 120_000},
		{typeTime, "1H", 3_600_000}, {typeTime, "1d", 86_400_000}, {typeTime, "1w", 604_800_000}, {typeTime, "1.5", bad},
		{typeTime, "ms", bad}, {typeTime, "s", bad}, {typeTime, "", bad}, {typeTime, "1y", bad}, {typeTime, "-1s", -1000},
		{typeTime, "99999999999999999w", bad},
		{typeInteger, "-7", -7}, {typeInteger, "1_000", bad}, {typeInteger, "0x10", bad}, {typeInteger, "", bad}, {typeInteger, "1.0", bad},
	} {
		got, ok := parseNumber(test.typ, test.text)
		if !ok {
			got = bad
		}
		if got != test.want {
			t.Errorf("%s %q is %d, want %d", typeNames[test.typ], test.text, got, test.want)
		}
	}
	if duration(1<<62) <= 0 {
		t.Error("a long time is not positive")
	}
}

// TestReference compares docs/reference.md with the table; go test -update writes it.
func TestReference(t *testing.T) {
	const path = "../../docs/reference.md"
	want := reference()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the table says; run: go test ./internal/config -run TestReference -update", path)
	}
}

// reference writes the reference page.
func reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	b.WriteString("## Exit codes\n\n| code | meaning |\n|---|---|\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %s | %s |\n", e.code, e.meaning)
	}
	b.WriteString("\nAny other error ends with the number in brackets of its message.\n\n## Commands\n\n| command | |\n|---|---|\n")
	for i := range commands {
		if c := &commands[i]; !c.internal {
			text := c.summary
			if c.later {
				text += " (not yet)"
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", strings.TrimSpace(c.name+" "+c.usage), text)
		}
	}
	for i := range commands {
		if c := &commands[i]; !c.internal {
			fmt.Fprintf(&b, "\n### %s\n\n%s\n", c.name, strings.ReplaceAll(c.text, "\n  ", "\n      "))
		}
	}
	b.WriteString("\n## Options\n")
	for a := range area(areaTotal) {
		fmt.Fprintf(&b, "\n### %s\n", areaNames[a])
		for i := range table {
			if row := &table[i]; row.area == a && !row.internal && row.commands != 0 {
				referenceOption(&b, Option(i))
			}
		}
	}
	return b.String()
}

const referenceIntro = `# Reference

Made from the option table by ` + "`go test ./internal/config -run TestReference -update`" + `; ` + "`pgx help`" + ` shows the same.

## How options are given

The first of these that has a value for an option is used:

1. the command line: ` + "`--name=value` or `--name value`" + `, before or after the command; booleans also ` + "`--name` and `--no-name`" + `.
   ` + "`--reset-name`" + ` goes back to the default whatever the rest says;
2. the environment: ` + "`PGX_NAME`, then `PGBACKREST_NAME`" + `, the name in capitals with ` + "`_` for `-`" + `; lists are joined with ` + "`:`" + `;
3. the configuration file;
4. the default.

The configuration file is the one of ` + "`--config`, else the first of `/etc/pgx/pgx.toml`, `/etc/pgbackrest/pgbackrest.conf`" + `
(with ` + "`*.conf` of `/etc/pgbackrest/conf.d`) and `/etc/pgbackrest.conf`. `--no-config`" + ` reads none. A name that ends in
` + "`.toml`" + ` is read as TOML, any other as INI. The most specific section counts:

| pgbackrest.conf | pgx.toml |
|---|---|
| ` + "`[demo:backup]` | `[stanza.demo.backup]`" + ` |
| ` + "`[demo]` | `[stanza.demo]`" + ` |
| ` + "`[global:backup]` | `[global.backup]`" + ` |
| ` + "`[global]` | `[global]`" + ` |

In pgbackrest.conf a value is everything between ` + "`=`" + ` and the end of the line, without the blanks around it: quotes,
` + "`#`, `;`" + ` and backslashes belong to it. A comment begins with ` + "`#`" + ` at the beginning of a line. A list or hash is given by
the same key on several lines. In pgx.toml booleans are ` + "`true` and `false`" + ` and whole numbers are numbers; sizes and times
with a unit are strings; a list is an array; a hash is a table, or an array of ` + "`\"key=value\"`" + `. ` + "`pgx config convert FILE`" + `
turns one form into the other, ` + "`pgx config show`" + ` prints each value and where it came from.

| type | values |
|---|---|
| boolean | ` + "`y` or `n`" + ` |
| size | a whole number of bytes, or with ` + "`k`, `m`, `g`, `t`, `p` (also `KiB`, `KB`)" + `, powers of 1024 |
| time | a whole number of seconds, or with ` + "`ms`, `s`, `m`, `h`, `d`, `w`" + ` |
| path | begins with ` + "`/`" + ` |
| list, hash | may be given several times; a hash is ` + "`key=value`" + ` |

Options with ` + "`pgN-` and `repoN-`" + ` carry a number from 1 to 256. Commands work with all repositories, or with the first, or
with the one of ` + "`--repo`" + `. Without ` + "`--stanza`" + ` the only configured stanza is used, for ` + "`archive-push` and `archive-get`" + ` the
one whose ` + "`pgN-path`" + ` is the working directory.

Called as ` + "`pgbackrest`" + ` (a link of that name) the program stands in for that one and leaves out what pgx has beyond it:
` + "`config show`, `config convert`, `key generate`, `ssh-setup`, `restore --dry-run`" + `, restoring on another host,
listeners (` + "`agent` and `server` without `--stdio`" + `), the stanza found by itself, and hints.

`

func referenceOption(b *strings.Builder, o Option) {
	row := &table[o]
	fmt.Fprintf(b, "\n#### %s\n\n%s", generic(o), row.summary)
	if row.more != "" {
		b.WriteString(" " + row.more)
	}
	b.WriteString("\n\n")
	fact := func(name, text string) {
		if text != "" {
			fmt.Fprintf(b, "- %s: %s\n", name, text)
		}
	}
	fact("type", typeNames[row.typ]+describeLimits(row, noCommand))
	for _, f := range row.allowFor {
		fact("for "+strings.Join(f.commands.names(), ", "), strings.Join(f.values, ", "))
	}
	c := Config{in: Input{}, topic: noCommand}
	def := c.defaultText(o)
	for _, f := range row.defFor {
		if def != "" {
			def += "; "
		}
		def += strings.Join(f.commands.names(), ", ") + ": " + f.value
	}
	if def == "" {
		def = "none"
	}
	fact("default", def)
	if row.secret {
		fact("secret", "never on the command line, printed as "+"`"+redacted+"`")
	}
	if row.needs != nil {
		fact("needs", strings.Replace(row.needs.describe(1), row.needs.option.at(1), generic(row.needs.option), 1))
	}
	for i := range row.needsFor {
		n := &row.needsFor[i].need
		fact("for "+strings.Join(row.needsFor[i].commands.names(), ", ")+" needs", strings.Replace(n.describe(1), n.option.at(1), generic(n.option), 1))
	}
	switch row.section {
	case sectionNone:
		fact("file", "no, command line and environment only")
	case sectionStanza:
		fact("file", "in the sections of a stanza")
	}
	fact("once called", oldNames(o))
	laterTexts(row, noCommand, fact)
	names := (row.commands &^ cConfigShow).names()
	if row.commands&^cConfigShow == setAll {
		names = []string{"all"}
	}
	fact("commands", strings.Join(names, ", "))
	if own := row.own | row.unseen; own != 0 {
		fact("beyond pgBackRest", strings.Join(own.names(), ", "))
	}
}

func (s commandSet) names() []string {
	var names []string
	for c := Command(0); c < commandTotal; c++ {
		if s.has(c) {
			names = append(names, c.String())
		}
	}
	return names
}

// FuzzINI: no file makes the reader fall over; what can be written as TOML and back
// still says the same.
func FuzzINI(f *testing.F) {
	f.Add("[global]\nrepo1-path=/x\n# c\n[demo:backup]\nexclude=a\nexclude=b # \"c\"\nrecovery-option=a=b\nstart-fast=y\nprocess-max=7\n")
	f.Add("[a]\n`=`\n\"x\"=\"\"\"\n;y= ;\n-=1\n-=2\n[DEFAULT]\nx=%(y)s\\\nz=1\n")
	f.Fuzz(func(t *testing.T, text string) {
		var d document
		ini := &file{name: "a.conf", data: []byte(text)}
		if d.readINI(ini) != nil {
			return
		}
		out, err := toTOML(ini)
		if err != nil {
			return
		}
		var asTOML document
		toml := &file{name: "a.toml", data: []byte(out)}
		if err := asTOML.readTOML(toml); err != nil {
			if keyIsTable(&d) {
				return // Convert finds it when it reads what it wrote
			}
			t.Fatalf("%v\n%s", err, out)
		}
		if err := same(&d, &asTOML); err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, out)
		}
	})
}

// keyIsTable says whether a section has a key of the name of its table for a command.
func keyIsTable(d *document) bool {
	for _, name := range d.names {
		section, command, _ := strings.Cut(name, ":")
		if slices.ContainsFunc(d.sections[section], func(e *entry) bool { return e.key == command }) {
			return true
		}
	}
	return false
}

// FuzzTOML: no file makes the reader fall over; what can be written as INI and back
// still says the same.
func FuzzTOML(f *testing.F) {
	f.Add("[global] # c\nrepo1-path = '/x'\n[stanza.demo.backup]\nexclude = [ # x\n'a', \"b\\n\"]\nrecovery-option = {a='b', \"c d\"=1}\nstart-fast=true\n")
	f.Add("global.backup.process-max = 7\n[stanza.'a b']\nx = '''\n#y\n'''\n[stanza.demo.recovery-option]\na=1\n[[global.x]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		var d document
		toml := &file{name: "a.toml", data: []byte(text)}
		if d.readTOML(toml) != nil {
			return
		}
		out, err := toINI(toml)
		if err != nil {
			return
		}
		var asINI document
		if err := asINI.readINI(&file{name: "a.conf", data: []byte(out)}); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := same(&d, &asINI); err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, out)
		}
	})
}

// FuzzArguments: no command line, variable or file makes Load fall over, and what
// Begin shows of options that were accepted is accepted again and shown the same.
func FuzzArguments(f *testing.F) {
	f.Add("--stanza=demo\nbackup\n--pg1-path=/x/\n--annotation=a=b\n--no-resume", "PGX_PROCESS_MAX=3")
	f.Add("restore\n--stanza\nx\n--type=time\n--target=2020-01-01\n--reset-delta\n--repo2-path=/y", "PGBACKREST_REPO1_PATH=/z")
	f.Add("config\nshow\nbackup\n--output=json", "PGX_EXCLUDE=a:b")
	f.Add("help\nbackup\nrepo300-path", "PGX_=")
	f.Fuzz(func(t *testing.T, line, variable string) {
		in := Input{Program: "pgx", Args: append(strings.Split(line, "\n"), "--no-config"), Env: []string{variable}, Root: t.TempDir()}
		c, err := Load(in)
		shown := c.Begin()
		_ = c.Settings()
		switch {
		case err != nil:
			return
		case c.Command == CmdHelp:
			_ = c.Help()
			return
		}
		var args []string
		c.each(func(o Option, index int, v *value) {
			switch {
			case v.negate && table[o].negate:
				args = append(args, "--no-"+o.at(index))
			case v.reset:
				args = append(args, "--reset-"+o.at(index))
			case v.source.Kind == FromDefault || table[o].secret || v.negate:
			case table[o].typ == typeBoolean:
				args = append(args, "--"+o.at(index))
			default:
				for _, text := range v.texts() {
					args = append(args, "--"+o.at(index)+"="+text)
				}
			}
		})
		if strings.Contains(shown, redacted) || c.Command == CmdConfigShow {
			return
		}
		in.Args, in.Env = append(append(strings.Fields(c.Command.String()), args...), c.Params...), nil
		again, err := Load(in)
		if err != nil || again.Begin() != shown {
			t.Fatalf("%q gives %s, and then error %v and %s", line, shown, err, again.Begin())
		}
	})
}

// FuzzNumbers: sizes and times are either refused or the number times its unit.
func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"1", "16MiB", "1kb", "10ms", "2w", "-1", "9223372036854775807p", "1.5h", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, ok := parseSize(text); ok {
			if n < 0 {
				t.Fatalf("%q is %d bytes", text, n)
			}
			if again, ok := parseSize(fmt.Sprint(n)); !ok || again != n {
				t.Fatalf("%q is %d bytes and then %d", text, n, again)
			}
		}
		if n, ok := parseTime(text); ok {
			if again, ok := parseTime(fmt.Sprint(n) + "ms"); !ok || again != n {
				t.Fatalf("%q is %d ms and then %d", text, n, again)
			}
		}
	})
}
