package main

import (
	"fmt"
	"strings"
)

const (
	helpColumn = 24 // where the explanations begin
	helpWidth  = 54 // of the explanations
)

const helpHead = `Usage: proxymatic [options]...
       proxymatic COMMAND [options]...

Proxy for TCP/UDP services registered in Marathon and etcd

Commands:
  run                   run in the foreground; what happens without a command
  services              read every source once and print what this host would
                        offer
  plan                  print what a run would change on this host now; exits
                        with 2 when there is something
  render                print the haproxy.cfg that would be written
  ack                   let the running proxymatic give up the servers that it
                        holds although their source forgot them
  validate              check the configuration and the templates
  healthcheck           ask the status endpoint of a running proxymatic
  version               print the version, and those of HAproxy and pen

Options:
  -h, --help            show this help message and exit
`

const helpTail = `
Options can also be given in the environment, under the names in parentheses,
and in the YAML file under their long names. A command line option wins over
the environment, that over the file.
`

// helpText is what --help prints, laid out as the original's.
func helpText() string {
	var b strings.Builder
	b.WriteString(helpHead)
	for _, o := range options() {
		b.WriteString(o.helpText())
	}
	b.WriteString(helpTail)
	return b.String()
}

func (o option) helpText() string {
	head := "--" + o.name
	if o.arg != "" {
		head += "=" + o.arg
	}
	if o.short != "" {
		head = strings.TrimSpace("-"+o.short+" "+o.arg) + ", " + head
	}
	lines := wrap(o.explanation(), helpWidth)
	var b strings.Builder
	if len(head) > helpColumn-4 {
		fmt.Fprintf(&b, "  %s\n", head)
	} else {
		fmt.Fprintf(&b, "  %-*s%s\n", helpColumn-2, head, lines[0])
		lines = lines[1:]
	}
	for _, line := range lines {
		fmt.Fprintf(&b, "%*s%s\n", helpColumn, "", line)
	}
	return b.String()
}

func (o option) explanation() string {
	text := o.help
	switch {
	case o.def == "false":
		text += " [default: False]" // as the original wrote it
	case o.def != "":
		text += " [default: " + o.def + "]"
	}
	switch {
	case o.secret:
		text += " (" + o.env + ", or " + o.env + "_FILE with the path of a file that holds it)"
	case o.env != "":
		text += " (" + o.env + ")"
	}
	return text
}

// wrap breaks text between words into lines of at most width bytes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}
