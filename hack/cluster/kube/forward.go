package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// forward accepts connections on a listening socket that it inherits, named by its file descriptor, and passes
// each on to an address. The socket belongs to the host's network, the process to the cluster's: so a
// loopback port of the host leads into a network that has no other way in or out.
func forward(arguments []string) error {
	if len(arguments) != 2 {
		return fmt.Errorf("usage: forward FILE_DESCRIPTOR ADDRESS:PORT")
	}
	descriptor, err := strconv.ParseUint(arguments[0], 10, 16)
	if err != nil {
		return err
	}
	listener, err := net.FileListener(os.NewFile(uintptr(descriptor), "listener"))
	if err != nil {
		return err
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go join(client.(*net.TCPConn), arguments[1])
	}
}

func join(client *net.TCPConn, address string) {
	defer client.Close()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	server := connection.(*net.TCPConn)
	defer server.Close()
	done := make(chan struct{})
	go func() {
		io.Copy(server, client)
		server.CloseWrite()
		close(done)
	}()
	io.Copy(client, server)
	client.CloseWrite()
	<-done
}
