package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// maxName is the longest name in bytes, far beyond what any display shows.
const maxName = 256

// parse gives the services of a file in canonical order. An entry that cannot be used is a Problem that names its
// place in the list; an error means that nothing of the text can be used.
func parse(text []byte) ([]*catalog.Service, []catalog.Problem, error) {
	entries, err := list(text)
	if err != nil {
		return nil, nil, err
	}
	services := make([]*catalog.Service, 0, len(entries))
	var problems []catalog.Problem
	taken := make(map[catalog.Key]int, len(entries))
	for i, entry := range entries {
		service, err := parseEntry(entry)
		if err == nil {
			if first, twice := taken[service.Key]; twice {
				err = fmt.Errorf("port %s is taken by services[%d]; give one of them another port", service.Key, first)
			}
		}
		if err != nil {
			problems = append(problems, catalog.Problem{Source: Name, Subject: fmt.Sprintf("services[%d]", i), Reason: err.Error()})
			continue
		}
		taken[service.Key] = i
		services = append(services, service)
	}
	catalog.Sort(services)
	return services, problems, nil
}

// list gives the entries of the list that the text is, or that it has under the key "services".
func list(text []byte) ([]*yaml.Node, error) {
	if json.Valid(text) { // YAML takes JSON, save for tabs between its words
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			return nil, err
		}
		text = compact.Bytes()
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty; write [] for no services")
	case err != nil:
		return nil, err
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("want one YAML document, not several")
	}
	root := doc.Content[0]
	if root.Kind == yaml.MappingNode {
		var err error
		if root, err = under(root); err != nil {
			return nil, err
		}
	}
	if root.Kind != yaml.SequenceNode {
		return nil, errors.New("want a list of services, or a list under the key services")
	}
	return root.Content, nil
}

// under gives the value of "services". The key "problems" may stand beside it, as `proxymatic services` prints it.
func under(root *yaml.Node) (*yaml.Node, error) {
	var found *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		switch key := root.Content[i].Value; {
		case key == "problems":
		case key != "services":
			return nil, fmt.Errorf("unknown key %q: want services", key)
		case found != nil:
			return nil, errors.New("the key services is there twice")
		default:
			found = root.Content[i+1]
		}
	}
	if found == nil {
		return nil, errors.New("the key services is missing")
	}
	return found, nil
}

func parseEntry(entry *yaml.Node) (*catalog.Service, error) {
	if err := checkKeys(entry); err != nil {
		return nil, err
	}
	var j catalog.ServiceJSON
	if err := entry.Decode(&j); err != nil {
		return nil, err
	}
	if err := checkWords(j); err != nil {
		return nil, err
	}
	s, err := j.Service()
	if err != nil {
		return nil, err
	}
	if s.Proto == catalog.UDP && s.Mode == catalog.ModeHTTP {
		return nil, errors.New("mode http: want tcp for protocol udp")
	}
	s.Source = Name // whatever the entry says: it may be a copy of what another source reported elsewhere
	for i := range s.Servers {
		s.Servers[i].Check = true // nobody looks at whether these live unless the proxy does
	}
	return s, nil
}

func checkWords(j catalog.ServiceJSON) error {
	switch {
	case j.Name == "":
		return errors.New("name is missing")
	case len(j.Name) > maxName:
		return fmt.Errorf("name: want at most %d bytes", maxName)
	case strings.ContainsFunc(j.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("name %q: has a character that cannot be printed", j.Name)
	}
	return nil
}

// checkKeys finds keys that mean nothing, which would otherwise be a setting silently ignored.
func checkKeys(entry *yaml.Node) error {
	var all map[string]any
	if err := entry.Decode(&all); err != nil {
		return errors.New("want a service: keys and values such as name, port and servers")
	}
	if err := known(all, reflect.TypeFor[catalog.ServiceJSON](), ""); err != nil {
		return err
	}
	if err := known(all["timeouts"], reflect.TypeFor[catalog.TimeoutsJSON](), "timeouts: "); err != nil {
		return err
	}
	servers, _ := all["servers"].([]any)
	for i, server := range servers {
		if err := known(server, reflect.TypeFor[catalog.ServerJSON](), fmt.Sprintf("servers[%d]: ", i)); err != nil {
			return err
		}
	}
	return nil
}

// known finds the first key, in the order of the alphabet, that is no YAML name of the shape's fields. What is no
// mapping is left to the decoder to refuse.
func known(value any, shape reflect.Type, where string) error {
	m, _ := value.(map[string]any)
	var names, unknown []string
	for field := range shape.Fields() {
		names = append(names, field.Tag.Get("yaml"))
	}
	for key := range m {
		if !slices.Contains(names, key) {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return fmt.Errorf("%sunknown key %q: want %s", where, slices.Min(unknown), strings.Join(names, ", "))
}
