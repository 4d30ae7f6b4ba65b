// Command fakemarathon serves a Marathon without Mesos, for demos. It is driven through /fake/ on the same address.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "addresses of the replicas, with commas between; the first is the leader")
	generation := flag.String("generation", "D", "A, B, C, D or a Marathon release such as 1.4")
	apps := flag.String("apps", "", "JSON file with a list of apps and their tasks")
	flag.Parse()
	c, err := start(*listen, *generation, *apps)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
	c.Close()
}

func start(listen, generation, apps string) (*fakemarathon.Cluster, error) {
	gen, err := fakemarathon.ParseGeneration(generation)
	if err != nil {
		return nil, err
	}
	c := fakemarathon.New(gen)
	if apps != "" {
		file, err := os.ReadFile(apps)
		if err != nil {
			return nil, err
		}
		if err := c.Load(file); err != nil {
			return nil, fmt.Errorf("%s: %w", apps, err)
		}
	}
	for addr := range strings.SplitSeq(listen, ",") {
		r, err := c.Replica(addr)
		if err != nil {
			return nil, err
		}
		fmt.Println(r.URL())
	}
	return c, nil
}
