package format

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// ArchiveDir gives the directory that holds a stanza's archive.
func ArchiveDir(stanza string) string { return "archive/" + stanza }

// ArchiveInfoPath gives the path of a stanza's archive.info.
func ArchiveInfoPath(stanza string) string { return ArchiveDir(stanza) + "/archive.info" }

// ArchiveIDDir gives the directory of one archive id.
func ArchiveIDDir(stanza string, id ArchiveID) string { return ArchiveDir(stanza) + "/" + id.String() }

// ArchivePath gives the path of a file of the archive, from the name it is stored
// under (a segment's is made by SegmentFile). What begins with 24 characters between 0
// and F lies in a directory named by the first 16, everything else directly below
// the archive id (pgBackRest, src/storage/helper.c).
func ArchivePath(stanza string, id ArchiveID, name string) string {
	dir := ArchiveIDDir(stanza, id)
	if walPrefix(name) {
		return dir + "/" + name[:16] + "/" + name
	}
	return dir + "/" + name
}

// walPrefix says whether name begins with 24 characters of the set [0-F], which is
// the range pgBackRest's expressions use.
func walPrefix(name string) bool { return len(name) >= 24 && inRange(name[:24], '0', 'F') }

func inRange(s string, low, high byte) bool {
	for i := range len(s) {
		if s[i] < low || s[i] > high {
			return false
		}
	}
	return true
}

// IsSegmentDir says whether name is that of a directory of WAL segments below an
// archive id: 16 characters of the set [0-F].
func IsSegmentDir(name string) bool { return len(name) == 16 && inRange(name, '0', 'F') }

// SegmentFile gives the name a WAL segment or partial segment is stored under: the
// SHA-1 of its content and the extension of its compression ("" or ".gz" …) are
// part of it.
func SegmentFile(wal string, sum [20]byte, ext string) string {
	return wal + "-" + hex.EncodeToString(sum[:]) + ext
}

// ParseSegmentFile takes apart what SegmentFile made: the name of the segment, with
// ".partial" if it has it, its SHA-1 and the extension. ok is false for any other name.
func ParseSegmentFile(name string) (wal string, sum [20]byte, ext string, ok bool) {
	wal, rest, found := strings.Cut(name, "-")
	if !found || len(rest) < 40 || !walPrefix(wal) {
		return "", sum, "", false
	}
	if len(wal) != 24 && wal[24:] != ".partial" {
		return "", sum, "", false
	}
	if _, err := hex.Decode(sum[:], []byte(rest[:40])); err != nil {
		return "", [20]byte{}, "", false
	}
	switch ext = rest[40:]; ext {
	case "", ".gz", ".bz2", ".lz4", ".zst", ".xz":
		return wal, sum, ext, true
	}
	return "", [20]byte{}, "", false
}

// BackupDir gives the directory that holds a stanza's backups.
func BackupDir(stanza string) string { return "backup/" + stanza }

// BackupInfoPath gives the path of a stanza's backup.info.
func BackupInfoPath(stanza string) string { return BackupDir(stanza) + "/backup.info" }

// IsInfoPath says whether a path is that of archive.info, of backup.info or of a copy of them.
func IsInfoPath(p string) bool {
	p = strings.TrimSuffix(p, CopySuffix)
	_, stanza, _ := strings.Cut(p, "/")
	stanza, _, _ = strings.Cut(stanza, "/")
	return stanza != "" && (p == ArchiveInfoPath(stanza) || p == BackupInfoPath(stanza))
}

// LatestPath gives the path of the symbolic link to the newest backup.
func LatestPath(stanza string) string { return BackupDir(stanza) + "/latest" }

// LabelDir gives the directory of one backup.
func LabelDir(stanza string, label Label) string { return BackupDir(stanza) + "/" + string(label) }

// ManifestPath gives the path of a backup's manifest. A backup is complete when, and
// only when, this file is there; while it runs there is only the one with CopySuffix.
func ManifestPath(stanza string, label Label) string {
	return LabelDir(stanza, label) + "/backup.manifest"
}

// HistoryDir gives the directory of the manifests that stay after their backups have
// expired. Below it is one directory a year.
func HistoryDir(stanza string) string { return BackupDir(stanza) + "/" + historyDir }

// HistoryPath gives the path of the manifest kept in the history: in the directory
// of the year its label begins with, always gz.
func HistoryPath(stanza string, label Label) string {
	return HistoryDir(stanza) + "/" + string(label[:4]) + "/" + string(label) + historySuffix
}

const historySuffix = ".manifest.gz"

// ParseHistoryFile gives the label of a manifest in the history from its file name.
func ParseHistoryFile(name string) (Label, bool) {
	s, ok := strings.CutSuffix(name, historySuffix)
	label, err := ParseLabel(s)
	return label, ok && err == nil
}

// FilePath gives the path of a file stored on its own: under its name in the
// manifest with the extension of its compression, or BlockExt.
func FilePath(stanza string, label Label, name, ext string) string {
	return LabelDir(stanza, label) + "/" + name + ext
}

// BundlePath gives the path of a bundle. Bundles count from 1 in each backup.
func BundlePath(stanza string, label Label, bundle uint32) string {
	return BundleDir(stanza, label) + "/" + strconv.FormatUint(uint64(bundle), 10)
}

// BundleDir gives the directory of a backup's bundles.
func BundleDir(stanza string, label Label) string { return LabelDir(stanza, label) + "/" + bundleDir }
