// Command load asks services on 127.0.0.1 all the time, each time over a new connection, until a signal ends it. It then says how
// often, and exits with 1 when a request failed.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
)

func main() {
	list := flag.String("ports", "8300", "ports of the services, with commas between")
	rate := flag.Int("rate", 300, "requests a second, altogether")
	flag.Parse()
	var ports []int
	for text := range strings.SplitSeq(*list, ",") {
		port, err := strconv.Atoi(text)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		ports = append(ports, port)
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	load := stage.StartLoad(ports, *rate, nil)
	<-end
	result := load.Stop()
	fmt.Printf("%d requests in %.1f s, %d failed\n", result.Requests, result.Elapsed.Seconds(), len(result.Failed))
	for _, failure := range result.Failed[:min(len(result.Failed), 10)] {
		fmt.Println(failure)
	}
	if result.Requests == 0 || len(result.Failed) > 0 {
		os.Exit(1)
	}
}
