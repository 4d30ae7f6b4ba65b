package haproxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// located is how HAProxy names a line of a file: "parsing [/etc/haproxy/haproxy.cfg:12] : ...", or "frontend 'web' (haproxy.cfg:12) ...".
var located = regexp.MustCompile(`[\[(][^\[\]()]*:(\d+)[\])]`)

// quoted is how it names a proxy.
var quoted = regexp.MustCompile(`'([^' /]+)['/]`)

// preface is what stands before HAProxy's words.
var preface = regexp.MustCompile(`^\[ALERT\]\s+(\d+/\d+ )?(\(\d+\) : )?(config : )?(parsing )?(\[[^\]]*:\d+\] : )?`)

// blame gives the services that HAProxy's words are about, with the words: those in whose sections the lines stand that it names, or
// whose proxies. What it says of other lines is nobody's.
func blame(made pieces, out string) map[catalog.Key]string {
	blamed := map[catalog.Key]string{}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "[ALERT]") {
			continue
		}
		key, at := catalog.Key{}, ""
		if m := located.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1])
			key, at = made.line(n)
		} else {
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				if key = made.proxy(m[1]); key != (catalog.Key{}) {
					break
				}
			}
		}
		if _, known := blamed[key]; known || key == (catalog.Key{}) {
			continue
		}
		blamed[key] = preface.ReplaceAllString(line, "")
		if at != "" {
			blamed[key] += fmt.Sprintf(" (in the line %q)", at)
		}
	}
	return blamed
}

// line gives the service in whose section a line of the file stands, and the line.
func (l pieces) line(n int) (catalog.Key, string) {
	for _, p := range l {
		text := string(p.appendTo(nil))
		if lines := strings.Count(text, "\n"); n > lines {
			n -= lines
			continue
		}
		if p.key == (catalog.Key{}) {
			break
		}
		return p.key, strings.TrimSpace(strings.Split(text, "\n")[max(0, n-1)])
	}
	return catalog.Key{}, ""
}

// proxy gives the service that a proxy belongs to.
func (l pieces) proxy(name string) catalog.Key {
	for _, p := range l {
		if p.section != nil && p.section.has(name) {
			return p.key
		}
	}
	return catalog.Key{}
}
