// The grpc-go peers: what src/server and src/client are with tonic.
//
// usage: pg-go server --listen ADDR:PORT ... | pg-go client --target ADDR:PORT ...
package main

import (
	"fmt"
	"os"

	"google.golang.org/grpc"
)

func main() {
	if len(os.Args) < 2 {
		fail("usage: pg-go server|client ...; pg-go version")
	}
	switch arguments := os.Args[2:]; os.Args[1] {
	case "server":
		serve(arguments)
	case "client":
		makeCalls(arguments)
	case "version":
		fmt.Println(grpc.Version)
	default:
		fail("not a command: " + os.Args[1])
	}
}
