package config

import (
	"encoding/json"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Setting is one option as `config show` tells of it.
type Setting struct {
	Option string   `json:"option"`
	Value  []string `json:"value"` // null: none; a list or hash may have several
	Source string   `json:"source"`
	Needs  string   `json:"needs,omitempty"` // why the option does not count
}

// prepareShow takes the parameter and the output option of `config show`, which
// concern the showing and not what is shown.
func (l *loader) prepareShow() error {
	l.target = noCommand
	switch len(l.cfg.Params) {
	case 0:
	case 1, 2:
		c, err := commandNamed(strings.Join(l.cfg.Params, " "), l.dropIn)
		if err != nil {
			return err
		}
		if c == CmdConfigShow || c == CmdConfigConvert || c == CmdKeyGenerate || c == CmdHelp {
			return errs.New(errs.ParamInvalid, "command '%s' has no options to show", c)
		}
		l.target = c
	default:
		return errs.New(errs.ParamInvalid, "only one command allowed for config show")
	}
	for _, n := range l.given[OptOutput] {
		switch n.given.values[0] {
		case "json":
			l.cfg.asJSON = true
		case "text":
		default:
			return l.wrongHint(errs.OptionInvalidValue, n.given, "allowed values are 'text', 'json'",
				"'%s' is not allowed for 'output' option", n.given.values[0])
		}
	}
	l.given[OptOutput] = nil
	return nil
}

// Settings gives every option of the command, or after `config show` of the command
// it names, with value and source. Secrets are <redacted>.
func (c *Config) Settings() []Setting {
	var settings []Setting
	c.each(func(o Option, index int, v *value) {
		row := &table[o]
		if row.internal && v.source.Kind == FromDefault {
			return
		}
		s := Setting{Option: o.at(index), Source: c.locate(v.source).String()}
		switch {
		case v.missing != nil:
			s.Source, s.Needs = "", v.missing.describe(index)
		case v.negate && row.typ != typeBoolean:
			s.Value = []string{"none"}
		case !v.set:
			s.Source = "not set"
		case row.secret:
			s.Value = []string{redacted}
		default:
			s.Value = v.texts()
		}
		settings = append(settings, s)
	})
	return settings
}

// describe says what an option needs, such as "repo1-type = s3".
func (n *need) describe(index int) string {
	name := n.option.at(index)
	switch {
	case n.values == nil:
		return name
	case table[n.option].typ == typeBoolean:
		return name + " = " + n.values[0]
	}
	return name + " = " + strings.Join(n.values, " or ")
}

// Show prints what [Config.Settings] gives, as a table or, with --output=json, as a
// JSON array.
func (c *Config) Show() string {
	settings := c.Settings()
	if c.asJSON {
		// Settings holds only strings: nothing that JSON could refuse.
		out, _ := json.MarshalIndent(settings, "", "  ")
		return string(out) + "\n"
	}
	rows := make([][3]string, 0, len(settings))
	var width [2]int
	for _, s := range settings {
		row := [3]string{s.Option, strings.Join(s.Value, ", "), s.Source}
		if s.Needs != "" {
			row[2] = "has no effect, needs " + s.Needs
		}
		if s.Value == nil {
			row[1] = "-"
		}
		for i := range width {
			width[i] = min(max(width[i], len(row[i])), 40)
		}
		rows = append(rows, row)
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row[:2] {
			b.WriteString(cell)
			b.WriteString(strings.Repeat(" ", max(width[i]-len(cell), 0)+2))
		}
		b.WriteString(row[2] + "\n")
	}
	return b.String()
}
