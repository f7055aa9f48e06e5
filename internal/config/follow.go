package config

// Follow gives the configuration of a command that another one goes over to, as backup does to
// expire: what holds is what held for the first, as far as the second knows the option at
// all, so that a section or a default of the second does not count.
func (c *Config) Follow(next Command) *Config {
	then := *c
	then.Command, then.Params, then.Warnings = next, nil, nil
	for i := range table {
		if !table[i].validFor(next, c.dropIn) {
			then.values[i] = nil
		}
	}
	return &then
}
