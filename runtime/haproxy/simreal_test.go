package haproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// scripts are commands that a driver sends, in the situations that it can meet. STEAL, RETURN, HOLD and DROP are done from
// outside: somebody listens on web's port or leaves it, a client of busy comes or goes. Commands in one line are one batch.
const scripts = `
read
	show info
	show servers state
	show stat -1 7 -1
	show servers state web; show stat web 7 -1; show servers state empty; show stat empty 7 -1
	show servers state front; show stat front 7 -1; show servers state back; show stat back 7 -1
	show servers state nope; show stat nope 7 -1
add
	add server web/127.0.0.1:31003 127.0.0.1:31003 weight 128 pool-max-conn -1 pool-purge-delay 5s
	show servers state web; show stat web 7 -1
	enable server web/127.0.0.1:31003; show servers state web
	add server web/127.0.0.1:31003 127.0.0.1:31003 weight 128
	add server web/2001:db8::1:31000 [2001:db8::1]:31000 weight 1 maxconn 3; enable server web/2001:db8::1:31000
	add server empty/first 127.0.0.1:31003; enable server empty/first
	add server back/127.0.0.1:31003 127.0.0.1:31003 weight 0
	show servers state; show stat -1 7 -1
add with a check
	add server web/a:c 127.0.0.1:31004 weight 128 maxconn 5 check inter 60s pool-max-conn -1 pool-purge-delay 5s
	show servers state web; show stat web 7 -1
	enable server web/a:c; show servers state web
	enable health web/a:c; show servers state web
	disable server web/a:c; show servers state web
	set server web/a:c state ready; show servers state web
	add server web/b:c 127.0.0.1:31004 check inter 60s; set server web/b:c state ready; show servers state web
	add server web/plain 127.0.0.1:31003; enable health web/plain; enable health web/none; enable health nope/none
	set server web/held health down; show servers state web; show stat web 7 -1
refused additions
	add server sticky/two 127.0.0.1:31002 weight 4; add server nope/two 127.0.0.1:31002; add server front/two 127.0.0.1:31002
	add server web/bad 127.0.0.1:31002 weight 400; add server web/bad 127.0.0.1:31002 foo; add server web/bad
	add server web/bad[ 127.0.0.1:31002; add server web 127.0.0.1:31002; add server web/held 127.0.0.1:1 foo
	show servers state
delete
	del server web/127.0.0.1:31001; del server web/none; del server nope/none; del server web
	disable server web/127.0.0.1:31001; disable server web/127.0.0.1:31001; show servers state web
	del server web/127.0.0.1:31001
	del server web/127.0.0.1:31001; show servers state web; show stat web 7 -1
	set server web/held state drain; del server web/held; show servers state web
	del server back/first; disable server back/first; del server back/first; show servers state back
	del server back/fixed; show servers state back
	disable server sticky/one
	del server sticky/one; show servers state sticky; show stat sticky 7 -1
	disable server web/none; disable server nope/none; disable server web; enable server web/none; enable server web; enable server nope/x
delete while busy
	HOLD
	disable server busy/held; del server busy/held; show servers state busy
	shutdown sessions server busy/none; shutdown sessions server nope/none; shutdown sessions server busy
	shutdown sessions server busy/held
	WAIT
	del server busy/held; show servers state busy
delete after the client left
	HOLD
	disable server busy/held; del server busy/held
	DROP
	del server busy/held
change
	set server web/none weight 3; set server nope/x weight 3; set server web weight 3; set server web/held
	set server web/held weight 77; set server web/held weight 300; set server web/held weight -1; set server web/held weight x; show servers state web
	set server web/held weight 0; set maxconn server web/held 9; show servers state web; show stat web 7 -1
	set maxconn server web/held 0; show stat web 7 -1; set maxconn server web/held x; set maxconn server web/none 9; set maxconn server nope/none 9
	set server web/held addr 127.0.0.2 port 31009; show servers state web; set server web/held addr 127.0.0.2 port 31009
	set server web/held addr nonsense port 31009; set server web/held addr 127.0.0.3; set server web/held addr ::1 port 31009; show servers state web
states
	set server web/held state drain; show servers state web; set server web/held state maint; show servers state web
	set server web/held state drain; show servers state web; set server web/held state ready; show servers state web
	set server web/held state drain; enable server web/held; show servers state web; set server web/held state odd
	set server web/held state drain; disable server web/held; show servers state web; enable server web/held; show servers state web
frontends
	disable frontend web; disable frontend web; show stat web 7 -1; show servers state web
	enable frontend web; enable frontend web; show stat web 7 -1
	disable frontend nope; enable frontend nope; disable frontend back; disable frontend front; show stat front 7 -1
	disable frontend web
	add server web/x 127.0.0.1:31003; enable server web/x; show servers state web; set server web/x weight 9; show servers state web
	STEAL
	enable frontend web; show stat web 7 -1; enable frontend web
	RETURN
	enable frontend web; show stat web 7 -1
nonsense
	nonsense; show nonsense; add nonsense web/x; show info; disable nonsense web
`

// TestSimAnswersLikeHAProxy sends the same commands to both, so that what is proven with the simulation holds.
func TestSimAnswersLikeHAProxy(t *testing.T) {
	needHAProxy(t)
	title, commands := "", 0
	var both *pair
	for line := range strings.Lines(strings.TrimSpace(scripts)) {
		if line = strings.TrimRight(line, "\n"); !strings.HasPrefix(line, "\t") {
			title, both = line, newPair(t)
			continue
		}
		commands += both.compare(title, strings.TrimSpace(line))
	}
	if commands < 40 {
		t.Errorf("only %d commands were compared", commands)
	}
	t.Logf("%d commands compared", commands)
}

// pair is a simulated and a real HAProxy that were started from the same file.
type pair struct {
	t      *testing.T
	sim    *sim
	real   socket
	ports  []uint16
	client net.Conn     // of the real one
	thief  net.Listener // on web's port
}

func newPair(t *testing.T) *pair {
	dir, err := os.MkdirTemp("", "pm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &pair{t: t, real: socket{filepath.Join(dir, "s")}, ports: freePorts(t, 5)}
	words := []string{"SOCKET", p.real.path, "BACKEND", holding(t)}
	for i, port := range p.ports {
		words = append(words, fmt.Sprintf("PORT%d", i+1), fmt.Sprint(port))
	}
	raw, err := os.ReadFile("testdata/script.cfg")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(strings.NewReplacer(words...).Replace(string(raw))), 0o600); err != nil {
		t.Fatal(err)
	}
	p.sim = &sim{file: path, world: world{thieves: map[uint16]bool{}, struck: map[fault]int{}}}
	if err := p.sim.startFile(""); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-db", "-f", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if !(&commands{cli: p.real, patience: answerTimeout}).answers(t.Context()) {
		t.Fatal("HAProxy does not answer")
	}
	return p
}

// holding listens, greets and keeps each connection until its client leaves.
func holding(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, "!")
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// compare sends a line of a script to both and gives how many commands it had.
func (p *pair) compare(title, line string) int {
	if p.outside(line) {
		return 0
	}
	commands := strings.Split(line, "; ")
	real, err := p.real.do(p.t.Context(), commands)
	if err != nil {
		p.t.Fatalf("%s: %q: %v", title, line, err)
	}
	simulated, err := p.sim.do(p.t.Context(), commands)
	if err != nil {
		p.t.Fatalf("%s: %q: %v", title, line, err)
	}
	for i, command := range commands {
		if got, want := readable(simulated[i]), readable(real[i]); got != want {
			p.t.Errorf("%s: %q\nsimulated:\n%s\nreal:\n%s", title, command, got, want)
		}
	}
	return len(commands)
}

// outside does what others than the driver do.
func (p *pair) outside(line string) bool {
	busy := p.sim.worker.proxy("busy").server("held")
	web := p.ports[0]
	var err error
	switch line {
	case "STEAL":
		p.sim.thieves[web] = true
		p.thief, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", web))
	case "RETURN":
		delete(p.sim.thieves, web)
		err = p.thief.Close()
	case "HOLD":
		busy.conns++
		if p.client, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[4])); err == nil {
			_, err = io.ReadFull(p.client, make([]byte, 1))
		}
	case "DROP":
		busy.conns--
		err = p.client.Close()
		p.await()
	case "WAIT": // until HAProxy has ended the sessions
		_, err = p.client.Read(make([]byte, 1))
		if err == io.EOF {
			err = nil
		}
		p.await()
	default:
		return false
	}
	if err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	return true
}

// await gives HAProxy time to notice that a connection has ended: until no session is busy's.
func (p *pair) await() {
	for p.t.Context().Err() == nil {
		answers, err := p.real.do(p.t.Context(), []string{"show sess"})
		if err != nil || !strings.Contains(answers[0], "fe=busy") {
			return
		}
		sleep(p.t.Context(), time.Millisecond)
	}
}

func sleep(ctx context.Context, t time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(t):
	}
}

// readable gives what the driver reads of an answer.
func readable(answer string) string {
	text := plain(answer)
	switch {
	case strings.HasPrefix(text, "1\n#"):
		return columns(text, " ", "be_name", "srv_name", "srv_addr", "srv_op_state", "srv_admin_state", "srv_uweight", "srv_check_state", "srv_port")
	case strings.HasPrefix(text, "# pxname"):
		return columns("1\n"+text, ",", "pxname", "svname", "slim", "status")
	case strings.HasPrefix(text, "Name: "):
		in, err := parseInfo(text)
		return fmt.Sprint(in.hash, " ", in.stopping, " ", in.version[:3], " ", err)
	}
	first, _, _ := strings.Cut(answer, "\n")
	first, _, _ = strings.Cut(first, "; did you mean")
	return first
}

// columns keeps some columns of a table whose second line names them.
func columns(table, separator string, names ...string) string {
	var out []string
	at := map[string]int{}
	for i, line := range strings.Split(table, "\n")[1:] {
		cells := strings.Split(strings.TrimPrefix(line, "# "), separator)
		if i == 0 {
			for j, name := range cells {
				at[name] = j
			}
			continue
		}
		if line == "" {
			continue
		}
		var row []string
		for _, name := range names {
			row = append(row, column(name, cells, at))
		}
		out = append(out, strings.Join(row, " "))
	}
	return strings.Join(out, "\n")
}

// column gives a cell as far as the driver reads it: of the status only the frontends', of the limits only the servers', and
// whether a server is up at all.
func column(name string, cells []string, at map[string]int) string {
	cell := cells[at[name]]
	proxy := at["svname"] > 0 && (cells[at["svname"]] == "FRONTEND" || cells[at["svname"]] == "BACKEND")
	switch {
	case name == "status" && (!proxy || cells[at["svname"]] == "BACKEND"), name == "slim" && proxy:
		return "-"
	case name == "srv_op_state" && cell != "0":
		return "up"
	case name == "srv_check_state": // without the bits that say that a check runs just now, and that maintenance lets it rest
		n, _ := strconv.Atoi(cell)
		return strconv.Itoa(n &^ (1 | 8))
	}
	return cell
}
