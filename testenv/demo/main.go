// Command demo tells the story of proxymatic by itself: a fake Marathon and a fake registrator with small backends, the real
// proxymatic, real HAProxy, pen and etcd, all in a directory of its own that is gone afterwards. It exits 0 only if every step was as it says.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/meltwater/proxymatic/testenv/e2e/stage"
	"github.com/meltwater/proxymatic/testenv/fakemarathon"
)

func main() {
	binary := flag.String("binary", "bin/proxymatic", "the program to show")
	keep := flag.Bool("keep", false, "go on until Ctrl-C, to play with it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run plays the story, and cleans up however it ends.
func run(ctx context.Context, binary string, keep bool) (err error) {
	site, err := stage.NewSite(fakemarathon.GenD)
	if err != nil {
		return err
	}
	defer site.Close()
	host, err := stage.NewHost(binary)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Printf("\nlog of proxymatic and its proxies:\n%s\n", host.Log())
		}
		if closeErr := host.Close(); err == nil {
			err = closeErr
		}
	}()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	containers, err := newContainers(limited, host.Path("etcd"))
	if err != nil {
		return err
	}
	defer containers.close()
	s := &story{ctx: limited, site: site, host: host, containers: containers}
	if err := s.tell(); err != nil {
		return err
	}
	if keep {
		s.keep(ctx)
	}
	return nil
}

// keep leaves everything as it is until ctx ends.
func (s *story) keep(ctx context.Context) {
	port := s.site.Ports()[0]
	app := stage.App(port).ID
	fmt.Printf(`
It goes on until Ctrl-C. Services: %s
  status      http://%s/api/v1/status
  metrics     http://%s/metrics
  haproxy.cfg %s
  log         %s
Be Marathon, and watch `+"`curl -s 127.0.0.1:%d`"+`:
  a server    go run ./testenv/cmd/backend -listen 127.0.0.1:31000 -name mine
  its task    curl -X POST %s/fake/apps%s/tasks -d '{"ports":[31000],"health":[true]}'
  all tasks   curl -s %s/v2/tasks
  kill one    curl -X DELETE %s/fake/tasks/ID
  503s        curl -X PUT %s/fake/faults -d '{"unavailable":-1}'
`, strings.Trim(fmt.Sprint(s.site.Ports()), "[]"), s.host.StatusAddr, s.host.StatusAddr, s.host.Config(), s.host.Path("log"), port,
		s.site.URL, app, s.site.URL, s.site.URL, s.site.URL)
	<-ctx.Done()
	fmt.Println()
}
