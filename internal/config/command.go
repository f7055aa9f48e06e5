package config

import (
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// Command names one command.
type Command uint8

// The commands. Those behind CmdVersion are pgx's own and, but for CmdAgent, do not exist
// when it is called as pgbackrest.
const (
	CmdAnnotate Command = iota
	CmdArchiveGet
	CmdArchivePush
	CmdBackup
	CmdCheck
	CmdExpire
	CmdHelp
	CmdInfo
	CmdManifest
	CmdRepoGet
	CmdRepoLs
	CmdRepoRm
	CmdRestore
	CmdServer
	CmdServerPing
	CmdStanzaCreate
	CmdStanzaDelete
	CmdStanzaUpgrade
	CmdStart
	CmdStop
	CmdVerify
	CmdVersion
	CmdAgent
	CmdConfigConvert
	CmdConfigShow
	CmdKeyGenerate
	CmdSSHSetup

	commandTotal = iota
	noCommand    = Command(commandTotal)
)

// commandSet is a set of commands, one bit each.
type commandSet uint32

const (
	cAnnotate      commandSet = 1 << CmdAnnotate
	cArchiveGet    commandSet = 1 << CmdArchiveGet
	cArchivePush   commandSet = 1 << CmdArchivePush
	cBackup        commandSet = 1 << CmdBackup
	cCheck         commandSet = 1 << CmdCheck
	cExpire        commandSet = 1 << CmdExpire
	cHelp          commandSet = 1 << CmdHelp
	cInfo          commandSet = 1 << CmdInfo
	cManifest      commandSet = 1 << CmdManifest
	cRepoGet       commandSet = 1 << CmdRepoGet
	cRepoLs        commandSet = 1 << CmdRepoLs
	cRepoRm        commandSet = 1 << CmdRepoRm
	cRestore       commandSet = 1 << CmdRestore
	cServer        commandSet = 1 << CmdServer
	cServerPing    commandSet = 1 << CmdServerPing
	cStanzaCreate  commandSet = 1 << CmdStanzaCreate
	cStanzaDelete  commandSet = 1 << CmdStanzaDelete
	cStanzaUpgrade commandSet = 1 << CmdStanzaUpgrade
	cStart         commandSet = 1 << CmdStart
	cStop          commandSet = 1 << CmdStop
	cVerify        commandSet = 1 << CmdVerify
	cVersion       commandSet = 1 << CmdVersion
	cAgent         commandSet = 1 << CmdAgent
	cConfigShow    commandSet = 1 << CmdConfigShow
	cSSHSetup      commandSet = 1 << CmdSSHSetup

	// The sets that many options share.
	setPgConn = cBackup | cCheck | cStanzaCreate | cStanzaDelete | cStanzaUpgrade
	setPgHost = setPgConn | cManifest
	setPgPath = setPgHost | cArchiveGet | cArchivePush | cRestore
	setRepo   = setPgPath | cAnnotate | cExpire | cInfo | cRepoGet | cRepoLs | cRepoRm | cVerify
	setIO     = setRepo | cServer | cServerPing
	setOwn    = cAgent | cSSHSetup
	setAll    = setIO | cStart | cStop | setOwn
	setUmask  = setAll &^ (cInfo | cManifest | cServer | cServerPing | setOwn)
	setLock   = setAll &^ (cCheck | cManifest | cRepoGet | cRepoLs | cRepoRm | cServer | cServerPing | cSSHSetup | cVerify)
	setWorker = cArchiveGet | cArchivePush | cBackup | cRestore | cVerify
)

func (s commandSet) has(c Command) bool { return c < commandTotal && s&(1<<c) != 0 }

type command struct {
	name     string
	noLog    bool // writes no log file
	quiet    bool // says only at debug level that it begins and ends
	params   bool // takes parameters
	internal bool // not shown in help
	own      bool // pgx's own
	noConfig bool // takes nothing from environment and configuration
	anyName  bool // own, but known under any name: another host starts it under that of pgN-host-cmd
	later    bool // has no function yet
	usage    string
	summary  string
	text     string
}

// String gives the name, such as "archive-push".
func (c Command) String() string {
	if c >= commandTotal {
		return "none"
	}
	return commands[c].name
}

// LogsToFile says whether the command writes a log file.
func (c Command) LogsToFile() bool { return !commands[c].noLog }

// Quiet says whether the lines that tell of begin and end are debug messages rather
// than info.
func (c Command) Quiet() bool { return commands[c].quiet }

var commands = [commandTotal]command{
	CmdAnnotate: {name: "annotate", noLog: true, later: true,
		summary: "add, change or remove notes on a backup",
		text:    "Changes the notes of the backup --set in every repository that holds it, or in --repo. Notes are given as --annotation=key=value; an empty value removes the key."},
	CmdArchiveGet: {name: "archive-get", noLog: true, params: true, usage: "WAL-FILE TARGET",
		summary: "fetch one WAL file from the archive",
		text:    "Called by PostgreSQL as restore_command; restore writes the setting. It asks the repositories in the order of their numbers and verifies what it hands over. A file that is in no repository ends the command with 1, every other trouble with the code of its error.\n\nExample: restore_command = 'pgx archive-get %f \"%p\"'"},
	CmdArchivePush: {name: "archive-push", noLog: true, params: true, usage: "WAL-PATH",
		summary: "store one WAL file in the archive",
		text:    "Called by PostgreSQL as archive_command. The segment is stored in every repository and is on disk in all of them before the command succeeds; a failure makes PostgreSQL keep the segment and try again.\n\nExample: archive_command = 'pgx archive-push %p'"},
	CmdBackup: {name: "backup",
		summary: "back up a cluster",
		text:    "Copies the data directory with its tablespaces into the first repository, or the one of --repo, while the server runs. WAL archiving must work: see check.\n\nExample: pgx backup --type=full --start-fast"},
	CmdCheck: {name: "check", noLog: true,
		summary: "test configuration and archiving end to end",
		text:    "Connects to the cluster, looks into every repository, switches to a new WAL segment and waits until the old one is in the archive. Without --stanza every configured stanza is checked."},
	CmdExpire: {name: "expire",
		summary: "remove backups and WAL that retention no longer asks for",
		text:    "Follows the repoN-retention options, in every repository or in --repo. It runs after every backup, unless expire-auto is off. --dry-run shows what would go, and why. --set removes one backup with all that depend on it, --oldest the oldest full one, whatever retention says.\n\nExample: pgx expire --dry-run"},
	CmdHelp: {name: "help", noLog: true, quiet: true, params: true, usage: "[COMMAND [OPTION]]",
		summary: "explain a command or an option",
		text:    "Examples: pgx help backup, pgx help restore target, pgx restore --help."},
	CmdInfo: {name: "info", noLog: true, quiet: true,
		summary: "show backups and archive",
		text:    "Shows every stanza, or the one of --stanza; with --set one backup in detail. --output=json is for programs."},
	CmdManifest: {name: "manifest", noLog: true, quiet: true, internal: true, later: true,
		summary: "look into a backup manifest",
		text:    "Shows what a backup holds and where it is stored."},
	CmdRepoGet: {name: "repo-get", noLog: true, quiet: true, params: true, later: true, usage: "FILE",
		summary: "print a file of a repository",
		text:    "Decrypts but does not decompress. The name is relative to the repository path."},
	CmdRepoLs: {name: "repo-ls", noLog: true, quiet: true, params: true, later: true, usage: "[PATH]",
		summary: "list files of a repository",
		text:    "The path is relative to the repository path."},
	CmdRepoRm: {name: "repo-rm", noLog: true, quiet: true, params: true, internal: true, later: true, usage: "PATH",
		summary: "remove files of a repository",
		text:    "The path is relative to the repository path; one that is not empty needs --recurse."},
	CmdRestore: {name: "restore",
		summary: "restore a cluster, to its newest state or to a moment",
		text:    "The server must be stopped. Without --delta the data directory must be empty. Without --set the newest backup is used, with --type=time or lsn the newest one before the target. The server then recovers from the archive when it is started. It runs on the PostgreSQL host; as pgx also on the repository host, where pg1-host names the host to restore on.\n\nExamples:\n  pgx restore\n  pgx restore --delta --type=time --target='2026-08-20 14:00:00+02' --target-action=promote\n  pgx restore --dry-run"},
	CmdServer: {name: "server",
		summary: "serve PostgreSQL hosts that have no repository of their own, over SSH",
		text: "Runs on the repository host. With --stdio it serves one session on the standard streams: a PostgreSQL host starts it so through sshd, or a forced command in authorized_keys does, which also says with --stanza and --role what that host may do. Without --stdio it stays and listens for SSH on server-port; the keys of server-client are let in, no account with a shell is needed, SIGHUP reads the configuration again, and SIGTERM ends it when the sessions that run are done.\n\n" +
			"Roles: archive stores and fetches WAL and never replaces or removes any; restore reads backups and WAL; admin may do everything.\n\n" +
			"Examples, a line of authorized_keys and the resident server:\n" +
			"  restrict,command=\"pgx --stanza=main --role=archive --role=restore server --stdio\" ssh-ed25519 AAAA... postgres@db1\n" +
			"  pgx server"},
	CmdServerPing: {name: "server-ping", noLog: true, params: true, later: true, usage: "[HOST]",
		summary: "ask whether a server answers",
		text:    "Exit code 0 when it does."},
	CmdStanzaCreate: {name: "stanza-create",
		summary: "prepare the repositories for a cluster",
		text:    "The first command for a new cluster: writes the cluster's identity into every repository. Running it again does no harm."},
	CmdStanzaDelete: {name: "stanza-delete", later: true,
		summary: "remove a stanza from a repository",
		text:    "Removes all its backups and its archive. Needs stop first, and --repo where there are several."},
	CmdStanzaUpgrade: {name: "stanza-upgrade", later: true,
		summary: "record a new PostgreSQL version or cluster",
		text:    "Run it after pg_upgrade, and make a full backup afterwards."},
	CmdStart: {name: "start",
		summary: "allow commands again after stop",
		text:    "For the stanza of --stanza, or for all."},
	CmdStop: {name: "stop",
		summary: "keep commands from running",
		text:    "For the stanza of --stanza, or for all, until start. --force ends those that run now."},
	CmdVerify: {name: "verify", later: true,
		summary: "check that what a repository holds is sound",
		text:    "Reads every file of every backup and of the archive. Exit code 0 says that it ran, not that all is well."},
	CmdVersion: {name: "version", noLog: true, quiet: true, noConfig: true,
		summary: "show the version",
		text:    "--output=num gives it as a number."},
	CmdAgent: {name: "agent", own: true, anyName: true,
		summary: "serve the repository host on a PostgreSQL host, over SSH",
		text: "Runs on a PostgreSQL host, as the user that owns the cluster. With --stdio it serves one session on the standard streams: the repository host starts it so through sshd, or a forced command in authorized_keys does, which also says with --stanza and --role what that host may do. Without --stdio it stays and listens for SSH on agent-port; the keys of agent-client are let in, no account with a shell is needed, SIGHUP reads the configuration again, and SIGTERM ends it when the sessions that run are done. What is read and written is the pg1-path of this host's configuration.\n\n" +
			"Roles: backup reads the cluster and begins and ends backups, and writes nothing; restore-target writes the data directory, which is as much as a shell of that user.\n\n" +
			"Examples, a line of authorized_keys and the resident agent:\n" +
			"  restrict,command=\"pgx --stanza=main --role=backup agent --stdio\" ssh-ed25519 AAAA... pgbackrest@backup1\n" +
			"  pgx agent"},
	CmdConfigConvert: {name: "config convert", noLog: true, quiet: true, params: true, own: true, noConfig: true, usage: "FILE",
		summary: "turn pgbackrest.conf into pgx.toml or the reverse",
		text:    "Prints the file in the other form; values, their order and comments stay. FILE is TOML when its name ends in .toml.\n\nExample: pgx config convert /etc/pgbackrest/pgbackrest.conf >/etc/pgx/pgx.toml"},
	CmdConfigShow: {name: "config show", noLog: true, quiet: true, params: true, own: true, usage: "[COMMAND]",
		summary: "show every option with its value and where it came from",
		text:    "With COMMAND as that command would see them. --output=json is for programs."},
	CmdKeyGenerate: {name: "key generate", noLog: true, quiet: true, own: true, noConfig: true,
		summary: "print a strong passphrase for a repository",
		text: "Prints 48 random bytes as 64 characters, for repoN-cipher-pass; it is kept nowhere. Set it with repoN-cipher-type=aes-256-cbc on the host of the repository before stanza-create, in a file that only its user can read, and keep a copy elsewhere: without it the backups are lost.\n\n" +
			"Example: pgx key generate"},
	CmdSSHSetup: {name: "ssh-setup", noLog: true, quiet: true, own: true,
		summary: "print what lets the hosts of the configuration talk to each other",
		text: "Prints, for the stanza of --stanza or for all, the lines that authorized_keys of both hosts need, and the same grants as agent-client and server-client for resident listeners. With --check it connects to each host instead, tries what is granted and says what is missing. Run it as the user that the commands run as: the keys are those of its ~/.ssh.\n\n" +
			"Examples:\n  pgx ssh-setup --stanza=main\n  pgx ssh-setup --check"},
}

// commandNamed finds a command by its name or by a beginning that only one has. A
// beginning that several share is refused rather than guessed.
func commandNamed(name string, dropIn bool) (Command, error) {
	var begins []string
	only := noCommand
	for i := range commands {
		if commands[i].own { // "config show" and its like are put together by the caller
			if commands[i].name == name && (!dropIn || commands[i].anyName) {
				return Command(i), nil
			}
			continue
		}
		if commands[i].name == name {
			return Command(i), nil
		}
		if name != "" && strings.HasPrefix(commands[i].name, name) {
			only = Command(i)
			begins = append(begins, commands[i].name)
		}
	}
	if len(begins) == 1 {
		return only, nil
	}
	err := errs.New(errs.CommandInvalid, "invalid command '%s'", name)
	if len(begins) > 1 {
		return noCommand, errs.WithHint(err, "it could be %s.", strings.Join(begins, ", "))
	}
	if near := nearCommand(name); near != "" && !dropIn {
		return noCommand, errs.WithHint(err, "did you mean '%s'?", near)
	}
	return noCommand, err
}
