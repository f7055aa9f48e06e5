package config_test

import (
	"slices"
	"testing"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
)

// withBlocks gives the input of a backup that stores files in blocks.
func withBlocks(more ...string) config.Input {
	args := []string{"--no-config", "--stanza=demo", "--pg1-path=/data", "--repo1-bundle", "--repo1-block", "backup"}
	return config.Input{Args: append(args, more...)}
}

func TestSteps(t *testing.T) {
	t.Parallel()
	c := load(t, withBlocks("--repo1-block-size-map=16k=8KiB", "--repo1-block-size-map=3gb=1g", "--repo1-block-size-map=1=8192",
		"--repo1-block-age-map=0=1", "--repo1-block-age-map=30=0", "--repo1-block-checksum-size-map=8k=16"))
	for o, want := range map[config.Option][]config.Step{
		config.OptRepoBlockSizeMap:         {{From: 3 << 30, To: 1 << 30}, {From: 16 << 10, To: 8 << 10}, {From: 1, To: 8 << 10}},
		config.OptRepoBlockAgeMap:          {{From: 30, To: 0}, {From: 0, To: 1}},
		config.OptRepoBlockChecksumSizeMap: {{From: 8 << 10, To: 16}},
	} {
		if got := c.Steps(o); !slices.Equal(got, want) {
			t.Errorf("%s: the steps are %v, want %v", o, got, want)
		}
	}
	if got := load(t, withBlocks()).Steps(config.OptRepoBlockSizeMap); got != nil {
		t.Errorf("without a value the steps are %v", got)
	}
}

func TestStepsRefused(t *testing.T) {
	t.Parallel()
	const size, age, sum = "repo1-block-size-map", "repo1-block-age-map", "repo1-block-checksum-size-map"
	for _, c := range []struct{ option, pair, wrong, shape string }{
		{size, "=8k", "", "a size such as 512KiB, 16MiB or 1GiB is expected"},
		{size, "0=8k", "0", "a size such as 512KiB, 16MiB or 1GiB is expected"},
		{size, "-1=8k", "-1", "a size such as 512KiB, 16MiB or 1GiB is expected"},
		{size, "4g=8k", "4g", "a size such as 512KiB, 16MiB or 1GiB is expected"},
		{size, "x=8k", "x", "a size such as 512KiB, 16MiB or 1GiB is expected"},
		{size, "16k=0", "0", "a multiple of 8KiB up to 1GiB is expected"},
		{size, "16k=x", "x", "a multiple of 8KiB up to 1GiB is expected"},
		{size, "16k=12k", "12k", "a multiple of 8KiB up to 1GiB is expected"},
		{size, "16k=4g", "4g", "a multiple of 8KiB up to 1GiB is expected"},
		{size, "16k=1048584k", "1048584k", "a multiple of 8KiB up to 1GiB is expected"},
		{age, "x=2", "x", "a whole number is expected"},
		{age, "-1=2", "-1", "a whole number is expected"},
		{age, "7=-1", "-1", "a whole number from 0 to 4294967295 is expected"},
		{age, "7=1.5", "1.5", "a whole number from 0 to 4294967295 is expected"},
		{sum, "0=7", "0", "a size such as 512KiB, 16MiB or 1GiB is expected"},
		{sum, "8k=5", "5", "a whole number from 6 to 16 is expected"},
		{sum, "8k=17", "17", "a whole number from 6 to 16 is expected"},
		{sum, "8k=x", "x", "a whole number from 6 to 16 is expected"},
	} {
		in := withBlocks("--" + c.option + "=" + c.pair)
		want := "'" + c.wrong + "' is not valid for '" + c.option + "' option"
		if _, err := config.Load(in); errs.CodeOf(err) != errs.OptionInvalidValue || err.Error() != want+" (command line; "+c.shape+")" {
			t.Errorf("%s=%s: %v", c.option, c.pair, err)
		}
		in.Program = "/usr/bin/pgbackrest"
		if _, err := config.Load(in); err == nil || err.Error() != want {
			t.Errorf("%s=%s as pgbackrest: %v", c.option, c.pair, err)
		}
	}
	in := withBlocks("--repo1-block-size-map=8k=8k")
	in.Args[4] = "--no-repo1-block"
	if _, err := config.Load(in); err == nil || err.Error() != "option 'repo1-block-size-map' not valid without option 'repo1-block'" {
		t.Errorf("without blocks: %v", err)
	}
}
