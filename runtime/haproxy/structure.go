package haproxy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// structure is what a running HAProxy was built from, as far as only a reload can change it. It is written to the run
// directory before each reload under its hash, which the running process shows in `show info`: the file haproxy.cfg
// cannot tell, since a crash between writing it and reloading leaves the two apart.
type structure struct {
	Hash     string                       `json:"hash"`
	Outer    string                       `json:"outer"`           // hash of the text outside of the services' sections
	Binds    []netip.AddrPort             `json:"binds,omitempty"` // the addresses that the outer text listens on
	Services map[catalog.Key]builtService `json:"services"`        // in JSON by text, such as "8300/tcp"
}

// builtService is one service's section in a structure.
type builtService struct {
	Name    string           `json:"name"` // the name that the template was given
	Hash    string           `json:"hash"`
	Binds   []netip.AddrPort `json:"binds,omitempty"`
	Proxies []builtProxy     `json:"proxies"`
	Static  string           `json:"static,omitempty"` // why the socket cannot change its servers, if it cannot
}

// builtProxy is one proxy of a section.
type builtProxy struct {
	Name  string   `json:"name"`
	Front bool     `json:"front,omitempty"`
	Back  bool     `json:"back,omitempty"`
	Fixed []string `json:"fixed,omitempty"` // the template's own servers
}

// newStructure gives the structure of a rendered configuration.
func newStructure(o outer, sections sections) structure {
	st := structure{Outer: o.hash, Binds: o.binds, Services: make(map[catalog.Key]builtService, len(sections))}
	for _, s := range sections {
		b := builtService{Name: s.name, Hash: s.hash, Binds: s.binds, Static: s.static}
		for _, p := range s.proxies {
			b.Proxies = append(b.Proxies, builtProxy{Name: p.name, Front: p.front, Back: p.back, Fixed: p.fixed})
		}
		st.Services[s.key] = b
	}
	st.Hash = st.sum()
	return st
}

// sum gives the hash of all that a reload would change.
func (st structure) sum() string {
	var b strings.Builder
	b.WriteString(st.Outer)
	for _, key := range slices.SortedFunc(maps.Keys(st.Services), catalog.Key.Compare) {
		b.WriteString(" " + key.String() + " " + st.Services[key].Hash)
	}
	return hashText(b.String())
}

// service finds a service's section.
func (st structure) service(key catalog.Key) (builtService, bool) {
	b, ok := st.Services[key]
	return b, ok
}
