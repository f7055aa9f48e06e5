package backup

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/repo/format"
	"github.com/pgx-backup/pgx/repo/format/manifest"
)

// plan makes the manifest of what is to be copied.
func (r *run) plan(ctx context.Context) error {
	r.m = &manifest.Manifest{
		Start:   r.began,
		Cluster: format.Cluster{Version: r.cluster.Version, CatalogVersion: r.cluster.CatalogVersion, ControlVersion: r.cluster.ControlVersion},
		Options: r.options(),

		Bundle: r.Bundle, BlockIncr: r.Blocks != nil,
		BundleRaw:  r.Blocks != nil,  // unless another is to be followed
		CipherPass: r.Repo.NewPass(), // unless it is to be that of another backup
	}
	for k, v := range r.Annotations {
		if v != "" {
			if r.m.Annotations == nil {
				r.m.Annotations = map[string]string{}
			}
			r.m.Annotations[k] = v
		}
	}
	if err := r.describe(ctx); err != nil {
		return err
	}
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	r.listed = now.Unix()
	r.m.CopyStart = r.listed
	if r.Online {
		r.m.CopyStart++
	}
	r.checkTimes(r.listed)
	return nil
}

func (r *run) options() manifest.Options {
	standby, delta, page := r.standby != nil, r.Delta, r.checksumPage
	level, network := r.CompressLevel, r.CompressLevelNetwork
	buffer, processes := uint32(r.BufferSize), uint32(r.ProcessMax)
	return manifest.Options{
		ArchiveCheck: r.Archiving.Check, ArchiveCopy: r.ArchiveCopy, BackupStandby: &standby, BufferSize: &buffer,
		ChecksumPage: &page, CompressLevel: &level, CompressLevelNetwork: &network, CompressType: string(r.Compress),
		Delta: &delta, Hardlink: r.Hardlink, Online: r.Online, ProcessMax: &processes,
	}
}

// describe puts into the manifest what PostgreSQL knows of itself and what is found on disk.
func (r *run) describe(ctx context.Context) error {
	if r.live != nil {
		databases, err := r.live.Databases(ctx)
		if err != nil {
			return err
		}
		for _, d := range databases {
			r.m.Databases.Add(manifest.Database{Name: d.Name, ID: d.OID, LastSystemID: d.LastSystemOID})
		}
	}
	r.m.Targets.Add(manifest.Target{Name: format.PGData, Path: r.node.Path})
	listing := pgdata.Listing{
		Version: r.control.Version, CatalogVersion: r.cluster.CatalogVersion, Online: r.Online, Exclude: r.Exclude,
	}
	numbers := map[string]bool{}
	for e, err := range r.node.Host.List(ctx, listing) {
		if err != nil {
			return err
		}
		if err := r.add(e); err != nil {
			return err
		}
		if isNumber(e.User) {
			numbers["uid "+e.User] = true
		}
		if isNumber(e.Group) {
			numbers["gid "+e.Group] = true
		}
	}
	r.warnNumbers(numbers)
	if err := r.nameTablespaces(ctx); err != nil {
		return err
	}
	return r.m.SetDefaults()
}

func isNumber(name string) bool { return name != "" && strings.Trim(name, "0123456789") == "" }

// warnNumbers tells, once, of owners that are recorded as numbers, see pgdata.Entry.
func (r *run) warnNumbers(owners map[string]bool) {
	all := strings.Join(slices.Sorted(maps.Keys(owners)), ", ")
	switch len(owners) {
	case 0:
	case 1:
		r.Log.Warn(all + " has no name on the PostgreSQL host: its number is recorded")
	default:
		r.Log.Warn(all + " have no name on the PostgreSQL host: their numbers are recorded")
	}
}

// add puts what was found on disk into the manifest.
func (r *run) add(e pgdata.Entry) error {
	owner := manifest.Owner{User: e.User, Group: e.Group}
	attributes := manifest.Attributes{Owner: owner, Mode: uint32(e.Mode)}
	switch e.Kind {
	case pgdata.Dir:
		r.m.Paths.Add(manifest.Path{Name: e.Name, Attributes: attributes})
	case pgdata.Link:
		r.m.Links.Add(manifest.Link{Name: e.Name, Destination: e.Target, Owner: owner})
		r.m.Targets.Add(target(e))
	case pgdata.File:
		f := manifest.File{Name: e.Name, Attributes: attributes, Size: e.Size, OriginalSize: e.Size, RepoSize: e.Size, Timestamp: e.ModTime}
		if r.checksumPage && postgres.HasPages(e.Name) {
			f.Pages = manifest.PagesValid // until it is read
		}
		if r.Blocks != nil {
			f.BlockSize, f.BlockChecksumSize = r.Blocks.of(f.Size, r.began-f.Timestamp)
		}
		return r.m.Files.Add(f)
	case pgdata.Special:
		r.Log.Warn(fmt.Sprintf("exclude special file '%s' from backup", e.Path))
	case pgdata.Excluded:
		what := ""
		if e.Exclusion[len(e.Exclusion)-1] == '/' {
			what = "contents of "
		}
		r.Log.Info(fmt.Sprintf("exclude %s'%s' from backup using '%s' exclusion", what, e.Path, e.Exclusion))
	}
	return nil
}

// target describes what a link leads to.
func target(e pgdata.Entry) manifest.Target {
	switch {
	case e.Tablespace != 0:
		return manifest.Target{Name: manifest.PGPath(e.Name), Path: e.Target, TablespaceID: e.Tablespace}
	case e.ToFile:
		return manifest.Target{Name: e.Name, Path: path.Dir(e.Target), File: path.Base(e.Target)}
	}
	return manifest.Target{Name: e.Name, Path: e.Target}
}

// nameTablespaces gives the tablespaces found on disk their names. PostgreSQL is asked
// afterwards, so that it knows those made in between; offline they are called by number.
func (r *run) nameTablespaces(ctx context.Context) error {
	names := map[uint32]string{}
	if r.live != nil {
		known, err := r.live.Tablespaces(ctx)
		if err != nil {
			return err
		}
		for _, s := range known {
			names[s.OID] = s.Name
		}
	}
	all := r.m.Targets.All()
	for i := range all {
		id := all[i].TablespaceID
		if id == 0 {
			continue
		}
		name, known := names[id]
		switch {
		case known:
		case r.live == nil:
			name = fmt.Sprintf("ts%d", id)
		default:
			return errs.WithHint(errs.New(errs.Assert, "tablespace with oid %d not found in tablespace map", id),
				"was a tablespace created or dropped during the backup?")
		}
		all[i].TablespaceName = name
	}
	return nil
}

// checkTimes looks for files from the future: by their times a later backup could not see
// that they changed, so it must compare contents.
func (r *run) checkTimes(second int64) {
	if *r.m.Options.Delta {
		return
	}
	for f := range r.m.Files.All() {
		if f.Timestamp > second {
			r.Log.Warn(fmt.Sprintf("file '%s' has timestamp (%d) in the future (relative to copy start %d), enabling delta checksum",
				manifest.PGPath(f.Name), f.Timestamp, second))
			*r.m.Options.Delta = true
			return
		}
	}
}

// chooseLabel gives the backup a label that is later than any other's, or of the set.
func (r *run) chooseLabel(ctx context.Context) error {
	taken, err := r.Repo.Taken(ctx)
	if err != nil {
		return err
	}
	prior := format.Label("")
	if r.prior != nil {
		prior = r.prior.Label
	}
	label, wait, err := format.NextLabel(r.Type, prior, time.Unix(r.began, 0).In(r.Now().Location()), taken)
	if err != nil {
		return err
	}
	if wait {
		now := r.Now()
		if err := sleep(ctx, now.Truncate(time.Second).Add(time.Second).Sub(now)); err != nil {
			return err
		}
	}
	r.m.SetLabel(label, r.prior)
	r.writer = r.Repo.NewBackup(label)
	return nil
}
