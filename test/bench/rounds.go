//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// round is one of several in which the same is measured. In that of number 0 syncs are counted
// and nothing is timed.
type round struct{ number, of int }

// counts says whether it is the round that counts syncs.
func (r round) counts() bool { return r.number == 0 && r.of > 0 }

// phase is the part of a second that has passed when a backup begins. Either program waits for the
// next second of the clock before it copies, so a backup takes longer that begins early in one:
// in a round both begin at the same time of a second, and the rounds share it evenly.
func (r round) phase() time.Duration {
	return time.Second * time.Duration(2*max(r.number, 1)-1) / time.Duration(2*max(r.of, 1))
}

// inRounds does something in each round. what is said of it.
func (c contest) inRounds(ctx context.Context, what string, do func(round) error) error {
	r := round{of: c.rounds}
	if c.targets {
		r.number = 1
	}
	for ; r.number <= r.of; r.number++ {
		if r.counts() {
			fmt.Fprintf(os.Stderr, "counting syncs, %s\n", what)
		} else {
			fmt.Fprintf(os.Stderr, "round %d of %d, %s\n", r.number, r.of, what)
		}
		if err := do(r); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// step is one operation of a contest.
type step struct {
	operation string
	measure   func(contest, context.Context) (sample, error)
}

// take has all contests do one step after the other. Who begins changes with each round.
func (r round) take(ctx context.Context, all []contest, report *report, steps ...step) error {
	all = slices.Clone(all)
	if r.number%2 == 0 {
		slices.Reverse(all)
	}
	for _, s := range steps {
		for _, c := range all {
			c.m.turn = r
			result, err := s.measure(c, ctx)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c, s.operation, err)
			}
			report.add(s.operation, c, result)
		}
	}
	return nil
}

// compete has each tool take the steps in a repository of its own.
func (r round) compete(ctx context.Context, common contest, tools []*tool, report *report, steps ...step) error {
	return common.entrants(ctx, tools, func(all []contest) error { return r.take(ctx, all, report, steps...) })
}

// entrants makes a contest of each tool, with a repository of its own in which there is the stanza,
// and gives them to work.
func (c contest) entrants(ctx context.Context, tools []*tool, work func([]contest) error) (err error) {
	var all []contest
	for _, t := range tools {
		one := c
		one.tool, one.dir = t, c.dir+"-"+t.name
		defer func() { err = errors.Join(err, one.discard()) }()
		if err := one.prepare(ctx); err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
		all = append(all, one)
	}
	for i := range all {
		for _, one := range all {
			if one.name == peerName {
				all[i].theirs = one.repository()
			}
		}
	}
	return work(all)
}

// String says for messages what the contest is about.
func (c contest) String() string {
	s := c.name + ", compress type " + c.codec
	if c.corpus != "" {
		s += ", " + c.corpus
	}
	if c.hosts != nil {
		s += ", between hosts"
	}
	return s
}
