package repo

import (
	"context"
	"fmt"
)

// Place is one of several repositories, opened when it is needed: one that is out of reach is of no
// matter to a command that finds what it looks for in another.
type Place struct {
	Key  int // the N of repoN
	Open func(context.Context) (*Repo, error)
}

// Name gives what messages call the repository: "repo1".
func (p Place) Name() string { return fmt.Sprintf("repo%d", p.Key) }
