package postgres

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pgx-backup/pgx/internal/errs"
)

// LSN is a position in the WAL: bytes since the cluster's beginning.
type LSN uint64

// String gives the LSN as PostgreSQL prints it: "0/1500028".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// ParseLSN reads an LSN as PostgreSQL does: two hexadecimal numbers of one to eight
// digits, in either case. Anything else is a Format error.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if h, hok := parseHex(high); ok && hok {
		if l, lok := parseHex(low); lok {
			return LSN(h)<<32 | LSN(l), nil
		}
	}
	return 0, errs.New(errs.Format, "'%s' is not an LSN such as '0/1500028'", s)
}

// Timeline is the number of a cluster's timeline; the first is 1.
type Timeline uint32

// String gives the timeline as it stands in WAL names: "00000001".
func (t Timeline) String() string { return fmt.Sprintf("%08X", uint32(t)) }

// parseHex reads one to eight hexadecimal digits and nothing else; strconv alone would
// also take a sign.
func parseHex(s string) (uint32, bool) {
	if s == "" || len(s) > 8 {
		return 0, false
	}
	for i := range len(s) {
		if c := s[i] | 0x20; !isDigit(s[i]) && (c < 'a' || c > 'f') {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 16, 32)
	return uint32(n), err == nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isDigits tells whether s is one or more decimal digits.
func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}
