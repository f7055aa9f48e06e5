package protocol_test

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgx-backup/pgx/internal/errs"
	"github.com/pgx-backup/pgx/protocol"
)

// A server that is alive and takes no data is given up like one that gives no answer.
func TestTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		ended := make(chan bool)
		go func() {
			defer close(ended)
			go func() { _, _ = io.CopyN(io.Discard, far, 200) }() // the hello and the request
			_, err := io.WriteString(far, frame(2, `{"protocol":1,"program":"pgx 2","silence":10000000000}`))
			for err == nil {
				<-time.After(time.Second)
				_, err = io.WriteString(far, frame(9, ""))
			}
		}()
		s, err := protocol.Open(t.Context(), near, protocol.Hello{}, clientConfig)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		err = s.Send(t.Context(), "take", nil, bytes.NewReader(make([]byte, 1<<20)), nil)
		if errs.CodeOf(err) != errs.Protocol || errs.Message(err) != "take: 'postgres@db1:22' has taken no data for 10s" || time.Since(begun) > 11*time.Second {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
		_ = s.Close()
		<-ended
	})
}
