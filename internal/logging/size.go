package logging

import "fmt"

// Size writes a number of bytes as messages and reports show it: "512B", "3.8MB", at
// most one digit behind the point and none when it is 0 (pgBackRest's strSizeFormat).
func Size(bytes int64) string {
	divisor, suffix := int64(1<<30), "GB"
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%dB", bytes)
	case bytes < 1<<20:
		divisor, suffix = 1<<10, "KB"
	case bytes < 1<<30:
		divisor, suffix = 1<<20, "MB"
	}
	// Hundredths, rounded to tenths: the product fits for anything a disk can hold.
	tenths := (bytes/divisor*100 + bytes%divisor*100/divisor + 5) / 10
	if tenths%10 == 0 {
		return fmt.Sprintf("%d%s", tenths/10, suffix)
	}
	return fmt.Sprintf("%d.%d%s", tenths/10, tenths%10, suffix)
}
