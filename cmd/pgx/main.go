// Command pgx backs up and restores PostgreSQL. See its help, and README.md.
//
// This package is the wiring: it resolves the options, builds what a command needs from
// them, calls the one function that does the work, and turns its error into an exit
// code. It alone knows exit codes, signals and the standard streams.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/pgx-backup/pgx/internal/config"
	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/internal/logging"
)

const (
	// version is that of this program.
	version = "0.1.0"

	// reference is the release of pgBackRest whose behaviour this one has, and whose
	// version it shows when it is called by that name.
	reference = "2.60.0"

	// writer is what info files and manifests name as their maker (backrest-version). It
	// differs from any version of pgBackRest, which so never takes up an unfinished
	// backup of ours.
	writer = "pgx-" + version
)

// Exit codes beyond those of errors.
const (
	exitMissing = 1 // archive-get: no repository has the file

	// exitAbort is what PostgreSQL does not take for the end of the archive: above 125
	// recovery stops, below it goes on without the WAL (RestoreArchivedFile in
	// src/backend/access/transam/xlogarchive.c).
	exitAbort = 255
)

// strictVariable is set to y by the restore_command that restore writes: every error
// of archive-get but a missing file is tried again, and then ends with exitAbort. It is in
// the environment and not an option because pgbackrest, should it take over, must
// ignore it, and because it has to count before options are read.
const strictVariable = "PGX_ARCHIVE_GET_STRICT"

// graceful is how long a command has to end after a signal.
const graceful = 30 * time.Second

// archiveMemory is how much memory archive-push and archive-get take, in bytes, before
// any of it is collected.
const archiveMemory = 192 << 20

func main() { exit(run()) }

// app is one run of the program.
type app struct {
	cfg    *config.Config
	execID string
	now    func() time.Time
	log    *slog.Logger
	sinks  *logging.Handler // of log
	bar    *bar
	strict bool
	begun  time.Time // the command

	input  config.Input   // what cfg was made of
	reload chan os.Signal // a resident service is to read it again
	peers  *peers         // shared by the copies that are made for other stanzas
}

func run() int {
	a := &app{execID: uuid.NewString(), now: time.Now, strict: os.Getenv(strictVariable) == "y", peers: new(peers)}
	if a.strict {
		// A crash of the program must not be exit code 2: let it be a signal.
		debug.SetTraceback("crash")
	}
	// Modes of what is created are set by whoever creates it.
	syscall.Umask(0)
	// Memory holds passphrases, and PostgreSQL runs its commands in the data directory: a core
	// would lie there, and be backed up.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})

	dir, err := os.Getwd()
	if err != nil {
		dir = "/" // removed under us: only relative paths need it, and fail by name
	}
	a.input = config.Input{
		Program: program(os.Args[0]), Args: os.Args[1:], Env: os.Environ(), Dir: dir,
		AsRoot: os.Geteuid() == 0, ExecID: a.execID, Version: version,
	}
	a.cfg, err = config.Load(a.input)
	if err != nil {
		return a.failedToLoad(err)
	}
	switch a.cfg.Command {
	case config.CmdHelp:
		fmt.Print(a.cfg.Help())
		return 0
	case config.CmdVersion:
		fmt.Print(a.versionText())
		return 0
	}

	if c := a.cfg.Command; (c == config.CmdArchivePush || c == config.CmdArchiveGet) && !a.cfg.Async {
		// They live for one segment and have nothing to collect. Should it be a large one
		// after all, the limit brings the collector back.
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(archiveMemory)
	}
	ctx, stop := a.signals()
	defer stop()
	a.logger()
	defer func() { _ = a.sinks.Close() }()
	return a.command(ctx)
}

// program gives the path this was run as, for commands that name it.
func program(arg0 string) string {
	if strings.Contains(arg0, "/") {
		if abs, err := filepath.Abs(arg0); err == nil {
			return abs
		}
		return arg0
	}
	// Found through PATH. The link's own name counts, not what it leads to.
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		p := filepath.Join(dir, arg0)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && filepath.IsAbs(p) {
			return p
		}
	}
	if exe, err := os.Executable(); err == nil {
		return exe
	}
	return arg0
}

// failedToLoad reports an error that came before there was a log.
func (a *app) failedToLoad(err error) int {
	for _, w := range a.cfg.Warnings {
		fmt.Fprintf(os.Stderr, "WARN: %s\n", w)
	}
	fmt.Fprintf(os.Stderr, "ERROR: [%03d]: %s\n", errs.CodeOf(err), err)
	return a.exitCode(err)
}

func (a *app) exitCode(err error) int {
	if a.strict && a.cfg.Command == config.CmdArchiveGet {
		return exitAbort
	}
	return int(errs.CodeOf(err))
}

func (a *app) versionText() string {
	num := a.cfg.String(config.OptOutput) == "num"
	name, v := "pgx", version
	if a.cfg.DropIn() {
		name, v = "pgBackRest", reference
	}
	if num {
		var major, minor, patch int
		fmt.Sscanf(v, "%d.%d.%d", &major, &minor, &patch)
		return fmt.Sprintf("%d", major*1000000+minor*1000+patch)
	}
	return fmt.Sprintf("%s %s\n", name, v)
}

// errSignal is the cause of a context that a signal ended.
type errSignal struct{ os.Signal }

func (e errSignal) Error() string { return "terminated on signal " + signalName(e.Signal) }

func signalName(s os.Signal) string {
	switch s {
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	case syscall.SIGQUIT:
		return "SIGQUIT"
	}
	return "SIGTERM"
}

// signals gives a context that ends with the first signal. After a second one, or when the
// command does not end within graceful, the program ends at once.
func (a *app) signals() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	got := make(chan os.Signal, 2)
	// SIGQUIT is what an immediate shutdown of PostgreSQL sends to its commands.
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	limit := graceful
	if a.resident() {
		a.reload = make(chan os.Signal, 1)
		signal.Notify(a.reload, syscall.SIGHUP)
		limit += drain
	} else {
		signal.Notify(got, syscall.SIGHUP)
	}
	done := make(chan struct{})
	go func() {
		select {
		case <-done:
			return
		case s := <-got:
			cancel(errSignal{s})
		}
		select {
		case <-done:
		case <-got:
			a.quit()
		case <-time.After(limit):
			a.quit()
		}
	}()
	return ctx, func() {
		signal.Stop(got)
		if a.reload != nil {
			signal.Stop(a.reload)
		}
		close(done)
		cancel(nil)
	}
}

// name is how the log calls the command.
func (a *app) name() string {
	if a.cfg.Async {
		return a.cfg.Command.String() + asyncSuffix
	}
	return a.cfg.Command.String()
}

// resident says whether the command is a service that stays.
func (a *app) resident() bool {
	c := a.cfg.Command
	return (c == config.CmdAgent || c == config.CmdServer) && !a.cfg.Bool(config.OptStdio)
}

// quit ends the program while the command still runs.
func (a *app) quit() {
	fmt.Fprintln(os.Stderr, "terminated before the command could clean up")
	if a.strict {
		exit(exitAbort)
	}
	exit(int(errs.Term))
}

// logger sets a.log up from the options.
func (a *app) logger() {
	c := a.cfg
	level := func(o config.Option) slog.Level {
		l, err := logging.ParseLevel(c.String(o))
		if err != nil {
			return logging.LevelOff // the command has no such option
		}
		return l
	}
	a.bar = newBar(os.Stdout, a.now)
	o := logging.Options{
		Stdout: a.bar, StdoutLevel: level(config.OptLogLevelConsole),
		Stderr: os.Stderr, StderrLevel: level(config.OptLogLevelStderr),
		Timestamp: c.Bool(config.OptLogTimestamp), ProcessMax: c.Int(config.OptProcessMax),
		DryRun: c.Bool(config.OptDryRun), Now: a.now,
	}
	if o.DryRun {
		// What would be done is the result of the command.
		o.StdoutLevel = min(o.StdoutLevel, slog.LevelInfo)
	}
	if !c.DropIn() {
		// On a terminal there is one command to look at, and the id would be noise.
		o.ExecID, o.ExecIDOnConsole = a.execID, !a.bar.show
	}
	if (c.Command.LogsToFile() || c.Async) && level(config.OptLogLevelFile) != logging.LevelOff {
		o.File = a.logFile(strings.NewReplacer(" ", "-", ":", "-").Replace(a.name()))
		o.FileLevel = level(config.OptLogLevelFile)
	}
	a.sinks = logging.New(o)
	a.log = slog.New(a.sinks)
}

// command runs the command between the lines that tell of its begin and end.
func (a *app) command(ctx context.Context) int {
	a.begin(ctx)
	for _, w := range a.cfg.Warnings {
		a.log.Warn(w)
	}

	err := commands[a.cfg.Command](ctx, a)
	_ = a.peers.close() // nothing is asked of them any more
	a.bar.end()

	var sig errSignal
	switch {
	case errors.As(context.Cause(ctx), &sig) && err != nil:
		a.log.Info(sig.Error(), logging.Bare())
		if a.strict {
			return exitAbort
		}
		return int(errs.Term)
	case errors.Is(err, errMissing):
		a.end()
		return exitMissing
	case err != nil:
		a.log.Error(err.Error(), logging.Code(errs.CodeOf(err)))
		a.log.Log(ctx, a.level(), fmt.Sprintf("%s command end: aborted with exception [%03d]", a.name(), errs.CodeOf(err)))
		return a.exitCode(err)
	}
	a.end()
	return 0
}

// level is that of the lines that tell of begin and end.
func (a *app) level() slog.Level {
	if a.cfg.Command.Quiet() || a.cfg.Bool(config.OptStdio) { // of a session the client tells
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func (a *app) begin(ctx context.Context) {
	a.begun = a.now()
	v := version
	if a.cfg.DropIn() {
		v = reference
	}
	a.log.Log(ctx, a.level(), strings.TrimSpace(fmt.Sprintf("%s command begin %s: %s", a.name(), v, a.cfg.Begin())))
}

func (a *app) end() {
	a.log.Log(context.Background(), a.level(), fmt.Sprintf("%s command end: completed successfully (%dms)",
		a.name(), a.now().Sub(a.begun).Milliseconds()))
}

// follow ends a command that has succeeded and goes over to the next, with a log of its own.
func (a *app) follow(ctx context.Context, next config.Command) {
	a.bar.end()
	a.end()
	_ = a.sinks.Close() // as at the end of the program
	a.cfg = a.cfg.Follow(next)
	a.logger()
	a.begin(ctx)
}

// print writes a command's result.
func print(s string) error {
	_, err := io.WriteString(os.Stdout, s)
	return errs.WrapAs(errs.FileWrite, err, "write the result")
}
