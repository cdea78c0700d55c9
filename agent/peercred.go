package agent

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
)

// ownUserOnly closes connections of other users. The socket's mode keeps them out already, except root and whoever is
// handed the open socket.
func ownUserOnly(l net.Listener) net.Listener { return credentialed{l, []int{os.Geteuid()}} }

// credentialed lets in the connections of these users only.
type credentialed struct {
	net.Listener

	users []int
}

// Accept gives the next connection of one of the users.
func (c credentialed) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && slices.Contains(c.users, uid) {
			return conn, nil
		}
		_ = conn.Close() // nothing was said on it
	}
}

// peerUID is the user on the other end of a Unix socket, from the kernel (SO_PEERCRED, unix(7)).
func peerUID(conn net.Conn) (int, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("a connection of type %T", conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, err
	}
	var (
		cred    *syscall.Ucred
		credErr error
	)
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}
