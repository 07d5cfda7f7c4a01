//go:build go1.21

package main

import (
	"context"
	"fmt"
	"io"
	"net"
)

// Listens as Go does by default from 1.24 on: Multipath TCP is asked for, and TCP taken where that is refused. Connects to
// itself in the same way, and says which of both it became.
func listen(arguments []string) {
	if len(arguments) != 1 {
		fail("usage: pg-go listen ADDR:PORT")
	}
	var config net.ListenConfig
	config.SetMultipathTCP(true)
	listener, err := config.Listen(context.Background(), "tcp", arguments[0])
	if err != nil {
		fail(err.Error())
	}
	var dialer net.Dialer
	dialer.SetMultipathTCP(true)
	client, err := dialer.Dial("tcp", arguments[0])
	if err != nil {
		fail(err.Error())
	}
	server, err := listener.Accept()
	if err != nil {
		fail(err.Error())
	}
	if _, err = client.Write([]byte("x")); err == nil {
		_, err = io.ReadFull(server, make([]byte, 1))
	}
	if err != nil {
		fail(err.Error())
	}
	multipath, err := server.(*net.TCPConn).MultipathTCP()
	if err != nil {
		fail(err.Error())
	}
	if multipath {
		fmt.Println("mptcp")
	} else {
		fmt.Println("tcp")
	}
}
