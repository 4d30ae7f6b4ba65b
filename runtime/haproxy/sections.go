package haproxy

import (
	"slices"

	"github.com/meltwater/proxymatic/sources/catalog"
)

// sections are those of several services, in the order of their keys. A section never changes once it is made, and a service
// that is wanted as before keeps its own. So comparing two lists of 5,000 is comparing pointers, which takes microseconds.
type sections []*section

// find gives a service's section, nil when there is none.
func (l sections) find(key catalog.Key) *section {
	if i, ok := l.search(key); ok {
		return l[i]
	}
	return nil
}

func (l sections) search(key catalog.Key) (int, bool) {
	return slices.BinarySearchFunc(l, key, func(s *section, key catalog.Key) int { return s.key.Compare(key) })
}

// put gives the list with another section of a service, in the same memory: only for a list of one's own.
func (l sections) put(s *section) sections {
	i, ok := l.search(s.key)
	if ok {
		l[i] = s
		return l
	}
	return slices.Insert(l, i, s)
}

// drop gives the list without a service's section, in the same memory.
func (l sections) drop(key catalog.Key) sections {
	if i, ok := l.search(key); ok {
		return slices.Delete(l, i, i+1)
	}
	return l
}

// made gives the list without the places that are empty: the same one when none is.
func (l sections) made() sections {
	if !slices.Contains(l, nil) {
		return l
	}
	return slices.DeleteFunc(slices.Clone(l), func(s *section) bool { return s == nil })
}

// without gives a list without the services that are named, leaving the first one as it was.
func without[V any](l sections, named map[catalog.Key]V) sections {
	if len(named) == 0 {
		return l
	}
	return slices.DeleteFunc(slices.Clone(l), func(s *section) bool { _, ok := named[s.key]; return ok })
}

// keys gives the services' keys.
func (l sections) keys() []catalog.Key {
	out := make([]catalog.Key, len(l))
	for i, s := range l {
		out[i] = s.key
	}
	return out
}

// differing gives the keys, in order, of the services of which only one list has a section, or the two have different ones.
func differing(a, b sections) []catalog.Key {
	out := []catalog.Key{}
	for {
		same := catalog.InStep(a, b)
		a, b = a[same:], b[same:]
		switch {
		case len(a) == 0 && len(b) == 0:
			return out
		case len(b) == 0 || len(a) > 0 && a[0].key.Compare(b[0].key) < 0:
			out = append(out, a[0].key)
			a = a[1:]
		case len(a) == 0 || a[0].key != b[0].key:
			out = append(out, b[0].key)
			b = b[1:]
		default:
			out = append(out, a[0].key)
			a, b = a[1:], b[1:]
		}
	}
}

// headsAlike reports whether the outer text is told the same of two lists.
func headsAlike(a, b sections) bool {
	if len(a) != len(b) || catalog.SameList(a, b) {
		return len(a) == len(b)
	}
	for i := range a {
		if a[i] != b[i] && a[i].head != b[i].head {
			return false
		}
	}
	return true
}
