// A Go listener of today, and nothing else: Multipath TCP is asked for, and TCP taken where that is refused. Connects to
// itself by Multipath TCP, and says which of both it became.
// usage: pg-listen ADDR:PORT
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: pg-listen ADDR:PORT")
		os.Exit(2)
	}
	multipath, err := listen(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pg-listen:", err)
		os.Exit(1)
	}
	if multipath {
		fmt.Println("mptcp")
	} else {
		fmt.Println("tcp")
	}
}

func listen(address string) (bool, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return false, err
	}
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	client, err := dialer.DialContext(context.Background(), "tcp", address)
	if err != nil {
		return false, err
	}
	server, err := listener.Accept()
	if err != nil {
		return false, err
	}
	if _, err = client.Write([]byte("x")); err != nil {
		return false, err
	}
	if _, err = io.ReadFull(server, make([]byte, 1)); err != nil {
		return false, err
	}
	return server.(*net.TCPConn).MultipathTCP()
}
