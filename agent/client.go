package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"github.com/pgx-backup/pgx/agent/pgdata"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/pgsql"
	"github.com/pgx-backup/pgx/internal/pipeline"
	"github.com/pgx-backup/pgx/internal/postgres"
	"github.com/pgx-backup/pgx/protocol"
)

// Client is a Host seen from afar.
type Client struct {
	pool *protocol.Pool
}

var _ Host = (*Client)(nil)

// NewClient makes a Client of sessions in RoleBackup. Each file that is open, a listing and a
// Session take one of the pool each, so it must allow for one more than there are files
// open at a time.
func NewClient(pool *protocol.Pool) *Client { return &Client{pool} }

// Control reads pg_control.
func (c *Client) Control(ctx context.Context) (postgres.Control, error) {
	var control postgres.Control
	if err := c.pool.Call(ctx, callControl, nil, &control); err != nil {
		return postgres.Control{}, err
	}
	return control, checkControl(control)
}

// Running says whether the data directory has a postmaster.pid.
func (c *Client) Running(ctx context.Context) (bool, error) {
	var r runningResult
	err := c.pool.Call(ctx, callRunning, nil, &r)
	return r.Running, err
}

// List gives what a backup holds.
func (c *Client) List(ctx context.Context, l pgdata.Listing) iter.Seq2[pgdata.Entry, error] {
	return func(yield func(pgdata.Entry, error) bool) {
		for w, err := range receive[wireEntry](ctx, c.pool, callListFiles, packListing(l)) {
			var e pgdata.Entry
			if err == nil {
				e, err = w.entry()
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// receive gives the list that a call gives.
func receive[T any](ctx context.Context, c protocol.Caller, call string, args any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		in, err := c.Receive(ctx, call, args)
		if err != nil {
			var none T
			yield(none, err)
			return
		}
		defer func() { _ = in.Close() }() // what is not read is not wanted
		for v, err := range values[T](in) {
			if !yield(v, err) {
				return
			}
		}
	}
}

func receiveAll[T any](ctx context.Context, c protocol.Caller, call string) ([]T, error) {
	var all []T
	for v, err := range receive[T](ctx, c, call, nil) {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Open opens a file for a backup.
func (c *Client) Open(ctx context.Context, r pgdata.Read) (Source, error) {
	in, err := c.readFile(ctx, packRead(r))
	if err != nil {
		return nil, err
	}
	f := &remoteFile{in: in, asked: askedOf(r)}
	if r.Expected != nil {
		if err := f.begin(); err != nil {
			_ = in.Close() // it has given its result, or is given up
			return nil, err
		}
	}
	return f, nil
}

// maxInRequest is how large a prior map can be that is sent in a request.
const maxInRequest = 256 << 10

// readFile asks for a file.
func (c *Client) readFile(ctx context.Context, a readFileArgs) (*protocol.Stream, error) {
	if a.Blocks == nil || len(a.Blocks.Prior) <= maxInRequest {
		return c.pool.Receive(ctx, callReadFile, a)
	}
	sent, err := appendRecord(nil, a)
	if err != nil {
		return nil, err
	}
	if len(sent) > maxRecords {
		return nil, errs.WithHint(errs.New(errs.ParamInvalid, "the prior block map of '%s' has %d bytes, too many to be sent", a.Name, len(a.Blocks.Prior)),
			"a new full backup can have larger blocks of such files (option repo-block-size-map).")
	}
	return c.pool.Exchange(ctx, callReadFile, readFileArgs{Sent: true}, bytes.NewReader(sent))
}

// remoteFile is a Source that comes from an agent.
type remoteFile struct {
	in       *protocol.Stream
	asked    asked
	first    []byte // read ahead by begin
	received int64
	result   *pipeline.Result // once all of it was read
}

// begin is pgdata.ErrUnchanged if the file is said to be that. What is sent of one that is not
// begins with a byte, unless it is empty.
func (f *remoteFile) begin() error {
	var first [1]byte
	switch n, err := f.in.Read(first[:]); {
	case n > 0:
		f.first = first[:n]
		return nil
	case err != io.EOF:
		return err
	}
	var w readFileResult
	if err := f.in.Result(&w); err != nil {
		return err
	}
	if w.Unchanged {
		return pgdata.ErrUnchanged
	}
	return nil
}

func (f *remoteFile) Read(p []byte) (int, error) {
	if len(f.first) > 0 {
		n := copy(p, f.first)
		f.first = f.first[n:]
		f.received += int64(n)
		return n, nil
	}
	n, err := f.in.Read(p)
	f.received += int64(n)
	if err == io.EOF {
		if failed := f.finish(); failed != nil {
			err = failed
		}
	}
	return n, err
}

// WriteTo hands over what comes as it comes.
func (f *remoteFile) WriteTo(w io.Writer) (int64, error) {
	to := counting{w, &f.received}
	var total int64
	if len(f.first) > 0 {
		n, err := to.Write(f.first)
		if total = int64(n); err != nil {
			return total, err
		}
		f.first = nil
	}
	n, err := f.in.WriteTo(to)
	if err == nil {
		err = f.finish()
	}
	return total + n, err
}

type counting struct {
	w io.Writer
	n *int64
}

func (c counting) Write(p []byte) (int, error) {
	*c.n += int64(len(p))
	return c.w.Write(p)
}

func (f *remoteFile) finish() error {
	if f.result != nil {
		return nil
	}
	var w readFileResult
	if err := f.in.Result(&w); err != nil {
		return err
	}
	r, err := w.result(f.received, f.asked)
	if err == nil {
		f.result = &r
	}
	return err
}

// Result tells of the file. Until all of it was read it only tells how much has come.
func (f *remoteFile) Result() pipeline.Result {
	if f.result == nil {
		return pipeline.Result{Size: f.received, RepoSize: f.received}
	}
	return *f.result
}

// Close lets go of the file; what was not read is cancelled.
func (f *remoteFile) Close() error { return f.in.Close() }

// Connect opens a connection from the agent to its server. It lives in one session of the
// pool, and no longer than that.
func (c *Client) Connect(ctx context.Context) (Session, error) {
	s, err := c.pool.Take(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Call(ctx, callConnect, nil, nil); err != nil {
		if ctx.Err() != nil {
			_ = s.Close() // it may have connected all the same
		}
		c.pool.Give(s)
		return nil, err
	}
	return &remoteSession{pool: c.pool, s: s}, nil
}

// remoteSession is a Session that lives in an agent.
type remoteSession struct {
	pool *protocol.Pool
	s    *protocol.Session // nil once closed
}

func (r *remoteSession) call(ctx context.Context, name string, args, result any) error {
	if err := r.usable(name); err != nil {
		return err
	}
	return r.s.Call(ctx, name, args, result)
}

// usable says why nothing can be asked of the server any more.
func (r *remoteSession) usable(call string) error {
	if r.s == nil {
		return errs.New(errs.DbQuery, "unable to call '%s': the connection to PostgreSQL is closed", call)
	}
	return errs.Wrap(r.s.Err(), "%s", call)
}

func (r *remoteSession) Facts(ctx context.Context) (pgsql.Facts, error) {
	var f pgsql.Facts
	if err := r.call(ctx, callFacts, nil, &f); err != nil {
		return pgsql.Facts{}, err
	}
	return f, checkFacts(f)
}

func (r *remoteSession) Databases(ctx context.Context) ([]pgsql.Database, error) {
	if err := r.usable(callDatabases); err != nil {
		return nil, err
	}
	return receiveAll[pgsql.Database](ctx, r.s, callDatabases)
}

func (r *remoteSession) Tablespaces(ctx context.Context) ([]pgsql.Tablespace, error) {
	if err := r.usable(callTablespaces); err != nil {
		return nil, err
	}
	return receiveAll[pgsql.Tablespace](ctx, r.s, callTablespaces)
}

func (r *remoteSession) Now(ctx context.Context) (time.Time, error) {
	var n nowResult
	err := r.call(ctx, callNow, nil, &n)
	return n.Now, err
}

func (r *remoteSession) Alive(ctx context.Context) error { return r.call(ctx, callAlive, nil, nil) }

func (r *remoteSession) Replayed(ctx context.Context) (postgres.LSN, error) {
	var p replayedResult
	err := r.call(ctx, callReplayed, nil, &p)
	return p.LSN, err
}

func (r *remoteSession) Checkpoint(ctx context.Context) error {
	return r.call(ctx, callCheckpoint, nil, nil)
}

func (r *remoteSession) StartBackup(ctx context.Context, how pgsql.BackupStart) (*pgsql.Backup, error) {
	var b pgsql.Backup
	if err := r.call(ctx, callStartBackup, startBackupArgs(how), &b); err != nil {
		return nil, err
	}
	if err := checkSegment(b.Segment); err != nil {
		return nil, err
	}
	if !how.CheckArchive {
		return &b, nil
	}
	if err := checkSegment(b.CheckSegment); err != nil {
		return nil, err
	}
	return &b, nil
}

func (r *remoteSession) StopBackup(ctx context.Context) (pgsql.BackupStop, error) {
	var b pgsql.BackupStop
	if err := r.call(ctx, callStopBackup, nil, &b); err != nil {
		return pgsql.BackupStop{}, err
	}
	return b, checkSegment(b.Segment)
}

func (r *remoteSession) CreateRestorePoint(ctx context.Context, name string) (postgres.LSN, error) {
	var p restorePointResult
	err := r.call(ctx, callCreateRestorePoint, restorePointArgs{name}, &p)
	return p.LSN, err
}

func (r *remoteSession) SwitchWAL(ctx context.Context) (segment string, err error) {
	var w switchWALResult
	if err := r.call(ctx, callSwitchWAL, nil, &w); err != nil {
		return "", err
	}
	return w.Segment, checkSegment(w.Segment)
}

func (r *remoteSession) Summaries(ctx context.Context) (pgsql.SummaryState, error) {
	var s pgsql.SummaryState
	err := r.call(ctx, callSummaries, nil, &s)
	return s, err
}

// maxChanged is how much of a cluster can have changed, in segments of 1 GiB. It bounds what is believed
// of another host.
const maxChanged = 1 << 24

func (r *remoteSession) Changed(ctx context.Context, of pgsql.SummaryRange) ([]pgsql.Changed, error) {
	if err := r.usable(callChanged); err != nil {
		return nil, err
	}
	var all []pgsql.Changed
	for c, err := range receive[pgsql.Changed](ctx, r.s, callChanged, changedArgs(of)) {
		if err != nil {
			return nil, err
		}
		if len(all) == maxChanged {
			return nil, errs.New(errs.Protocol, "more than %d segments of relations are said to have changed", maxChanged)
		}
		all = append(all, c)
	}
	return all, nil
}

// disconnectTimeout is a second more than a server is given to end a session.
const disconnectTimeout = 6 * time.Second

// Close ends the connection to the server. When the session with the agent is lost it
// cannot say that the connection has ended; the agent ends it as soon as it knows.
func (r *remoteSession) Close(ctx context.Context) error {
	if r.s == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectTimeout)
	defer cancel()
	err := r.call(ctx, callDisconnect, nil, nil)
	s := r.s
	r.s = nil
	defer r.pool.Give(s)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errs.New(errs.HostConnect, "the agent did not end its connection to PostgreSQL within %s", disconnectTimeout)
	}
	if err == nil {
		return nil
	}
	_ = s.Close()
	return errs.WithHint(err, "a backup it was in ends with the connection: look for it in pg_stat_activity")
}
