// Command backend runs one server that answers with its name, for demos.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/meltwater/proxymatic/testenv/backend"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	kind := flag.String("kind", "http", "http, tcp (a line for a line) or udp")
	name := flag.String("name", "backend", "what to answer")
	flag.Parse()
	s, err := start(*kind, *listen, *name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
	s.Close()
}

func start(kind, listen, name string) (*backend.Server, error) {
	switch kind {
	case "http":
		return backend.ListenHTTP(listen, name)
	case "tcp":
		return backend.ListenTCP(listen, name)
	case "udp":
		return backend.ListenUDP(listen, name)
	}
	return nil, fmt.Errorf("kind %q: want http, tcp or udp", kind)
}
