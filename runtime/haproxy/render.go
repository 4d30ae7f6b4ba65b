package haproxy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/meltwater/proxymatic/sources/catalog"
	"github.com/meltwater/proxymatic/templates"
)

// renderer makes the text of haproxy.cfg. A service's section is rendered by itself, and shared with the list before while the
// service stays the same, so that a change costs one section; everything else (the outer text) is rendered with a mark where
// each section goes.
type renderer struct {
	service *template.Template
	outer   *template.Template
	global  templates.HAProxy // all but MaxConn and Services
	bind    netip.Addr
	maxConn int // of each service

	source      string // a hash of all that makes sections: what it says on a server's line, only a reload can change
	static      string // why no section's servers can be changed at run time, if that is so
	servesEmpty bool   // the template has servers of its own, so that a service without tasks should be listened for

	lines  lineParser
	buffer bytes.Buffer // for the text of a section
	made   made
	last   outer
	of     sections // what last was rendered for
}

// made is the latest list of sections and what it was made of.
type made struct {
	want     []*catalog.Service
	each     sections // of each of want; nil for one that is not to be offered
	built    string   // the hash of the structure that names come from
	static   string
	sections sections
	fixed    bool // some section needs a reload for each change of its servers
}

// outer is the text of haproxy.cfg outside of the services' sections.
type outer struct {
	parts  []string      // between the sections: one more than keys
	keys   []catalog.Key // whose section follows parts[i]
	hash   string        // of the text with a fixed global maxconn, which follows the number of services
	binds  []netip.AddrPort
	static string // why its defaults forbid changing servers at run time
}

// sectionMark stands around the port where a section goes in the outer text.
const sectionMark = "\x00"

func newRenderer(t *template.Template, global templates.HAProxy, bind netip.Addr, maxConn int) (*renderer, error) {
	marked, err := t.Clone()
	if err != nil {
		return nil, err
	}
	if _, err := marked.New("service").Parse(sectionMark + "{{.Port}}" + sectionMark + "\n"); err != nil {
		return nil, err
	}
	r := &renderer{source: sourceOf(t), service: t.Lookup("service"), outer: marked, global: global, bind: bind, maxConn: maxConn}
	empty, err := r.make(&catalog.Service{Key: catalog.Key{Port: 1, Proto: catalog.TCP}, Mode: catalog.ModeTCP}, "empty", "")
	if err != nil {
		return nil, err
	}
	r.servesEmpty = empty.hasServers()
	return r, r.tryServers()
}

// sourceOf gives a hash of the templates that make sections: all but the one that makes the file.
func sourceOf(t *template.Template) string {
	var out []string
	for _, part := range t.Templates() {
		if part.Name() != t.Name() && part.Tree != nil {
			out = append(out, part.Name()+part.Root.String())
		}
	}
	slices.Sort(out)
	return hashText(strings.Join(out, "\n"))
}

// tryServers finds out whether a server's line says more than its address and check with other words than weight and
// maxconn: then a server that changes in weight would need to be added anew, under the name that it has.
func (r *renderer) tryServers() error {
	addr := netip.MustParseAddrPort("192.0.2.1:1")
	fixed := map[string]bool{}
	for _, weight := range []int{1, catalog.DefaultWeight, catalog.MaxWeight} {
		for _, maxConn := range []int{0, 1, 10000} {
			s := &catalog.Service{Key: catalog.Key{Port: 1, Proto: catalog.TCP}, Mode: catalog.ModeTCP,
				Servers: []catalog.Server{{Addr: addr, Weight: weight, MaxConn: maxConn}}}
			sec, err := r.make(s, "sample", "")
			if err != nil {
				return err
			}
			for _, p := range sec.proxies {
				for _, line := range p.servers {
					fixed[p.name+" "+line.fixed] = true
				}
			}
			if len(fixed) > len(sec.proxies) {
				r.static = "its server lines have words that depend on weight or maxconn"
				return nil
			}
		}
	}
	return nil
}

// head gives a service's data outside of its section. None of it can begin another line or word, whatever a source says.
func (r *renderer) head(s *catalog.Service, name string) templates.HAProxyService {
	mode, source := catalog.ModeTCP, ""
	if s.Mode == catalog.ModeHTTP {
		mode = s.Mode
	}
	if s.Source != "" {
		source = catalog.CleanName(s.Source)
	}
	return templates.HAProxyService{Name: name, Port: s.Port, Bind: netip.AddrPortFrom(r.bind, s.Port).String(), Mode: string(mode),
		HTTP: s.Mode == catalog.ModeHTTP, Source: source, MaxConn: r.maxConn, TimeoutClient: seconds(s.Timeouts.Client), TimeoutServer: seconds(s.Timeouts.Server)}
}

// seconds writes a duration as HAProxy reads it; "" for none.
func seconds(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	const most = math.MaxInt32 // HAProxy counts in 31 bits
	return strconv.FormatInt(min(max(1, d.Milliseconds()), most), 10) + "ms"
}

// offers reports whether HAProxy should listen for a service: for one of TCP that has servers. One without is treated like a
// removed one, whose clients are refused; unless the template has servers of its own for that case.
func (r *renderer) offers(s *catalog.Service) bool {
	return s.Proto == catalog.TCP && (len(s.Servers) > 0 || r.servesEmpty)
}

// sections gives the sections of the services that are to be offered, under the names that built has for them. static is why
// the defaults forbid changes at run time, if they do. want, and the list before, are walked side by side; at the same services
// in both it looks by their pointers alone.
func (r *renderer) sections(want []*catalog.Service, built structure, static string) (sections, error) {
	was := r.made
	same := was.built == built.Hash && was.static == static
	if same && catalog.SameList(want, was.want) {
		return was.sections, nil
	}
	each := make(sections, len(want))
	fixed := false
	for i, k := 0, 0; k < len(want); k++ { // i is of was.want
		if same {
			run := catalog.InStep(want[k:], was.want[i:])
			copy(each[k:], was.each[i:i+run])
			if i, k = i+run, k+run; k == len(want) {
				break
			}
		}
		s := want[k]
		for i < len(was.want) && was.want[i] != s && was.want[i].Key.Compare(s.Key) < 0 {
			i++
		}
		known := i < len(was.want) && was.want[i].Equal(s)
		if known {
			each[k] = was.each[i]
			i++
		}
		old := each[k]
		if old == nil && (known || !r.offers(s)) {
			continue // HAProxy should not listen for it
		}
		if old == nil || !same && (old.outside != static || old.name != built.nameOf(s)) {
			made, err := r.make(s, built.nameOf(s), static)
			if err != nil {
				return nil, err
			}
			each[k], fixed = made, fixed || made.static != ""
		}
	}
	out := each.made()
	if was.fixed && !fixed { // perhaps it was one that is gone
		fixed = slices.ContainsFunc(out, func(s *section) bool { return s.static != "" })
	}
	r.made = made{want, each, built.Hash, static, out, fixed}
	return out, nil
}

// nameOf gives the name that a service runs under, or would.
func (st structure) nameOf(s *catalog.Service) string {
	if b, ok := st.service(s.Key); ok {
		return b.Name
	}
	return listenName(s)
}

// make renders a section.
func (r *renderer) make(s *catalog.Service, name, static string) (*section, error) {
	usable := usableServers(s.Servers)
	servers := make([]templates.HAProxyServer, len(usable))
	usual := make([]usualLine, len(usable))
	for i, v := range usable {
		o, err := r.lines.usual(v)
		if err != nil {
			return nil, err
		}
		servers[i] = templateServer(v, o)
		usual[i] = usualLine{servers[i].Line, serverLine{name: servers[i].Name, addr: v.Addr, serverOptions: o}}
	}
	head := r.head(s, name)
	r.buffer.Reset()
	if err := r.service.Execute(&r.buffer, head.Section(servers)); err != nil {
		return nil, fmt.Errorf("render service %s: %w", s.Key, err)
	}
	text := strings.Trim(r.buffer.String(), "\n") + "\n"
	managed := func(n string) bool {
		return slices.ContainsFunc(servers, func(v templates.HAProxyServer) bool { return v.Name == n })
	}
	sec, err := parseSection(s.Key, name, text, managed, usual, &r.lines)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	sec.service, sec.head, sec.outside = s, head, static
	if static = cmp.Or(static, r.static); static != "" && sec.static == "" {
		sec.static, sec.hash = static, hashText(static+text)
	}
	sec.hash = hashText(sec.hash + r.source)
	return sec, nil
}

// templateServer gives what a template sees of a server with its usual options.
func templateServer(v catalog.Server, o *serverOptions) templates.HAProxyServer {
	s := templates.HAProxyServer{Name: serverName(v), Weight: o.weight, MaxConn: o.maxconn, Check: v.Check}
	if s.Address = s.Name; v.Check || !v.Addr.Addr().Is4() {
		s.Address = v.Addr.String()
	}
	s.Line = "server " + s.Name + " " + s.Address + " " + o.words
	return s
}

// outerOf gives the outer text around sections. It depends on their heads alone.
func (r *renderer) outerOf(list sections) (outer, error) {
	if r.last.hash != "" && headsAlike(list, r.of) {
		r.of = list // of which the next one differs less
		return r.last, nil
	}
	heads := make([]templates.HAProxyService, len(list))
	checked := 0
	for i, s := range list {
		heads[i] = s.head
		for _, v := range s.service.Servers {
			if v.Check {
				checked++
			}
		}
	}
	o, err := r.renderOuter(heads, globalMaxConn(r.maxConn, len(list), checked))
	if err == nil {
		r.last, r.of = o, list
	}
	return o, err
}

// renderOuter renders the outer text.
func (r *renderer) renderOuter(heads []templates.HAProxyService, globalMaxConn int) (outer, error) {
	var neutral string
	var neutralErr error
	var group sync.WaitGroup
	group.Go(func() { neutral, neutralErr = r.executeOuter(heads, 0) })
	text, err := r.executeOuter(heads, globalMaxConn)
	group.Wait()
	if err = errors.Join(err, neutralErr); err != nil {
		return outer{}, err
	}
	o := cutOuter(text)
	o.hash = hashText(condense(strings.Join(cutOuter(neutral).parts, "")))
	o.read()
	return o, nil
}

// cutOuter cuts a text at the marks of the sections.
func cutOuter(text string) outer {
	var o outer
	for {
		before, rest, found := strings.Cut(text, sectionMark)
		o.parts = append(o.parts, before)
		if !found {
			return o
		}
		digits, after, _ := strings.Cut(rest, sectionMark)
		port, _ := strconv.ParseUint(digits, 10, 16)
		o.keys = append(o.keys, catalog.Key{Port: uint16(port), Proto: catalog.TCP})
		text = strings.TrimPrefix(after, "\n")
	}
}

// condense drops blank lines, comments and indentation, which change nothing for HAProxy.
func condense(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func (r *renderer) executeOuter(heads []templates.HAProxyService, globalMaxConn int) (string, error) {
	data := r.global
	data.Services, data.MaxConn = heads, globalMaxConn
	var b bytes.Buffer
	if err := r.outer.Execute(&b, data); err != nil {
		return "", fmt.Errorf("render template: %w", err)
	}
	return b.String(), nil
}

// read takes what matters to the driver from the outer text.
func (o *outer) read() {
	inDefaults := false
	for _, part := range o.parts {
		for line := range strings.Lines(part) {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			switch words[0] {
			case "defaults":
				inDefaults = true
				continue
			case "global", "listen", "frontend", "backend", "peers", "resolvers", "userlist", "cache", "ring", "program":
				inDefaults = false
				continue
			case "bind":
				if len(words) > 1 {
					o.binds = append(o.binds, bindAddresses(words[1])...)
				}
			}
			if reason := staticReason(words); inDefaults && reason != "" {
				o.static = reason
			}
		}
	}
}
