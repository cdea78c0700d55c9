package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// A relay is a Unix socket by which a checker acts from within a sample application, as somebody who has taken it over
// would. The checker writes one line. "NETWORK ADDRESS" opens a connection from there: the answer is a line "ok", and then
// whatever both sides write, or a line with the error. "hits" answers how often the application was reached.
const (
	relayHits = "hits"
	relayOK   = "ok"

	relayLine    = 512
	relayTimeout = 2 * time.Second
)

// ErrClosedThere says that the relay works, and that the address could not be reached from the application.
var ErrClosedThere = errors.New("from within the application")

// ServeApp runs the sample application of "tenant/service", and its relay, until ctx ends. A mere caller has no address.
func ServeApp(ctx context.Context, name, address, relay string) error {
	var lc net.ListenConfig
	a := newApp(name)
	failed := make(chan error, 2) //nolint:mnd // one for each server
	if address != "" {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("application of %s: %w", name, err)
		}
		defer a.stop()
		go func() { failed <- a.server.Serve(l) }()
	}
	if err := os.Remove(relay); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("relay of %s: %w", name, err)
	}
	l, err := lc.Listen(ctx, "unix", relay)
	if err != nil {
		return fmt.Errorf("relay of %s: %w", name, err)
	}
	defer l.Close() //nolint:errcheck // nobody is left to tell
	// The directory says who gets here: the checker is another user.
	if err := os.Chmod(relay, 0o666); err != nil { //nolint:gosec // as above
		return fmt.Errorf("relay of %s: %w", name, err)
	}
	go func() { failed <- a.relay(ctx, l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("%s: %w", name, err)
	case <-ctx.Done():
		return nil
	}
}

func (a *App) relay(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close() //nolint:errcheck // the other end knows
			a.serveRelay(ctx, conn)
		}()
	}
}

func (a *App) serveRelay(ctx context.Context, conn net.Conn) {
	in := bufio.NewReaderSize(conn, relayLine)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return
	}
	order := strings.TrimSpace(string(line))
	if order == relayHits {
		fmt.Fprintln(conn, a.Hits())
		return
	}
	network, address, _ := strings.Cut(order, " ")
	out, err := (&net.Dialer{Timeout: relayTimeout}).DialContext(ctx, network, address)
	if err != nil {
		fmt.Fprintln(conn, err)
		return
	}
	defer out.Close() //nolint:errcheck // the other end knows
	fmt.Fprintln(conn, relayOK)
	ended := make(chan struct{}, 2) //nolint:mnd // one for each direction
	pipe := func(to, from net.Conn, r io.Reader) {
		_, _ = io.Copy(to, r) // either end may go away
		_ = to.Close()
		_ = from.Close()
		ended <- struct{}{}
	}
	go pipe(out, conn, in)
	go pipe(conn, out, out)
	<-ended
	<-ended
}

// orderRelay gives the relay its line and reads the answer's. The connection is open only where the error is nil.
func orderRelay(ctx context.Context, socket, order string) (net.Conn, string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, "", fmt.Errorf("relay: %w", err)
	}
	answer, err := ask(ctx, conn, order)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("relay: %w", err), conn.Close())
	}
	return conn, answer, nil
}

func ask(ctx context.Context, conn net.Conn, order string) (string, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := io.WriteString(conn, order+"\n"); err != nil {
		return "", err
	}
	// Byte by byte: what follows the line belongs to whoever gets the connection.
	var line []byte
	for b := make([]byte, 1); len(line) < relayLine; line = append(line, b[0]) {
		if _, err := io.ReadFull(conn, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			break
		}
	}
	return string(line), conn.SetDeadline(time.Time{})
}

// dialRelay opens a connection from within the application that has this relay.
func dialRelay(ctx context.Context, socket, network, address string) (net.Conn, error) {
	conn, answer, err := orderRelay(ctx, socket, network+" "+address)
	if err != nil {
		return nil, err
	}
	if answer != relayOK {
		// As a dial from here would say it.
		refused := &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%w: %s", ErrClosedThere, answer)}
		return nil, errors.Join(refused, conn.Close())
	}
	return conn, nil
}

func relayedHits(ctx context.Context, socket string) (int64, error) {
	conn, answer, err := orderRelay(ctx, socket, relayHits)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // the answer is here
	return strconv.ParseInt(answer, 10, 64)
}
