package agent

import (
	"bufio"
	"context"
	"errors"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/protocol"
)

// RoleBackup is the role of who makes backups of this host: it describes the cluster, lists
// and reads what belongs to it, begins and ends a backup and switches WAL. It writes
// nothing, runs nothing and reads nothing else.
const RoleBackup = "backup"

// BackupService offers h to a client in RoleBackup. It is for one session of the protocol. In
// that there is at most one connection to PostgreSQL, which ends with it, and with that
// the backup it has begun.
func BackupService(h Host) protocol.Service {
	s := &backupService{host: h}
	return protocol.Service{
		Calls: map[string]protocol.Handler{
			callControl:            s.control,
			callRunning:            s.running,
			callListFiles:          s.listFiles,
			callReadFile:           s.readFile,
			callReadFiles:          s.readFiles,
			callConnect:            s.connect,
			callDisconnect:         s.disconnect,
			callFacts:              s.connected(facts),
			callDatabases:          s.connected(databases),
			callTablespaces:        s.connected(tablespaces),
			callNow:                s.connected(now),
			callAlive:              s.connected(alive),
			callReplayed:           s.connected(replayed),
			callCheckpoint:         s.connected(checkpoint),
			callStartBackup:        s.connected(startBackup),
			callStopBackup:         s.connected(stopBackup),
			callCreateRestorePoint: s.connected(createRestorePoint),
			callSwitchWAL:          s.connected(switchWAL),
			callSummaries:          s.connected(summaries),
			callChanged:            s.connected(changed),
		},
		Close: func() error {
			_, err := s.disconnect(context.Background(), nil) // it ends by itself within seconds
			return err
		},
	}
}

type backupService struct {
	host   Host
	server Session // nil while not connected
}

func (s *backupService) control(ctx context.Context, _ *protocol.Call) (any, error) {
	return s.host.Control(ctx)
}

func (s *backupService) running(ctx context.Context, _ *protocol.Call) (any, error) {
	running, err := s.host.Running(ctx)
	return runningResult{running}, err
}

func (s *backupService) listFiles(ctx context.Context, c *protocol.Call) (any, error) {
	var args listFilesArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	listing, err := args.listing()
	if err != nil {
		return nil, err
	}
	out := newList(c.Out())
	for e, err := range s.host.List(ctx, listing) {
		if err != nil {
			return nil, err
		}
		if err := out.add(packEntry(e)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *backupService) readFile(ctx context.Context, c *protocol.Call) (any, error) {
	var args readFileArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	if args.Sent {
		if _, err := readRecord(bufio.NewReader(c.In()), maxRecords, &args); err != nil {
			return nil, cutRecord(err)
		}
	}
	read, err := args.read()
	if err != nil {
		return nil, err
	}
	file, err := s.host.Open(ctx, read)
	if errors.Is(err, pgdata.ErrUnchanged) {
		return readFileResult{Unchanged: true}, nil
	}
	if err != nil {
		return nil, err
	}
	_, err = file.WriteTo(c.Out())
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return packResult(file.Result()), nil
}

func (s *backupService) connect(ctx context.Context, _ *protocol.Call) (any, error) {
	if s.server != nil {
		return nil, errs.New(errs.Protocol, "this session is connected to PostgreSQL already")
	}
	server, err := s.host.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s.server = server
	return nil, nil
}

func (s *backupService) disconnect(ctx context.Context, _ *protocol.Call) (any, error) {
	if s.server == nil {
		return nil, nil
	}
	server := s.server
	s.server = nil
	return nil, server.Close(ctx)
}

// connected makes a handler of what needs the connection to PostgreSQL.
func (s *backupService) connected(do func(context.Context, Session, *protocol.Call) (any, error)) protocol.Handler {
	return func(ctx context.Context, c *protocol.Call) (any, error) {
		if s.server == nil {
			return nil, errs.New(errs.Protocol, "this session is not connected to PostgreSQL: '%s' comes first", callConnect)
		}
		return do(ctx, s.server, c)
	}
}

func facts(ctx context.Context, s Session, _ *protocol.Call) (any, error) { return s.Facts(ctx) }

func databases(ctx context.Context, s Session, c *protocol.Call) (any, error) {
	all, err := s.Databases(ctx)
	return nil, giveAll(c, all, err)
}

func tablespaces(ctx context.Context, s Session, c *protocol.Call) (any, error) {
	all, err := s.Tablespaces(ctx)
	return nil, giveAll(c, all, err)
}

func giveAll[T any](c *protocol.Call, all []T, err error) error {
	out := newList(c.Out())
	for i := 0; i < len(all) && err == nil; i++ {
		err = out.add(all[i])
	}
	return err
}

func now(ctx context.Context, s Session, _ *protocol.Call) (any, error) {
	now, err := s.Now(ctx)
	return nowResult{now}, err
}

func alive(ctx context.Context, s Session, _ *protocol.Call) (any, error) { return nil, s.Alive(ctx) }

func replayed(ctx context.Context, s Session, _ *protocol.Call) (any, error) {
	lsn, err := s.Replayed(ctx)
	return replayedResult{lsn}, err
}

func checkpoint(ctx context.Context, s Session, _ *protocol.Call) (any, error) {
	return nil, s.Checkpoint(ctx)
}

func startBackup(ctx context.Context, s Session, c *protocol.Call) (any, error) {
	var args startBackupArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	if err := checkText("label of a backup", args.Label, 1024); err != nil {
		return nil, err
	}
	return s.StartBackup(ctx, pgsql.BackupStart(args))
}

func stopBackup(ctx context.Context, s Session, _ *protocol.Call) (any, error) {
	return s.StopBackup(ctx)
}

func createRestorePoint(ctx context.Context, s Session, c *protocol.Call) (any, error) {
	var args restorePointArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	if err := checkText("name of a restore point", args.Name, 63); err != nil {
		return nil, err
	}
	lsn, err := s.CreateRestorePoint(ctx, args.Name)
	return restorePointResult{lsn}, err
}

func switchWAL(ctx context.Context, s Session, _ *protocol.Call) (any, error) {
	segment, err := s.SwitchWAL(ctx)
	return switchWALResult{segment}, err
}

func summaries(ctx context.Context, s Session, _ *protocol.Call) (any, error) {
	return s.Summaries(ctx)
}

func changed(ctx context.Context, s Session, c *protocol.Call) (any, error) {
	var args changedArgs
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	if args.From >= args.To {
		return nil, errs.New(errs.ParamInvalid, "there is no WAL from lsn = %s to lsn = %s", args.From, args.To)
	}
	all, err := s.Changed(ctx, pgsql.SummaryRange(args))
	return nil, giveAll(c, all, err)
}
