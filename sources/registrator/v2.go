package registrator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// v2 reads etcd's v2 store over plain HTTP. It is for one goroutine, apart from position.
type v2 struct {
	web    *web
	prefix string // without a slash at the end
	path   string // of the prefix in the API
}

func newV2(where location, web *web) *v2 {
	path := "/v2/keys"
	for segment := range strings.SplitSeq(strings.Trim(where.prefix, "/"), "/") {
		path += "/" + url.PathEscape(segment)
	}
	return &v2{web: web, prefix: where.prefix, path: path}
}

func (s *v2) name() string { return storeV2 }

func (s *v2) close() { s.web.http.CloseIdleConnections() }

// node is a key or a directory, as etcd writes it.
type node struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Dir   bool   `json:"dir"`
	Nodes []node `json:"nodes"`
	Index uint64 `json:"modifiedIndex"`
}

// list asks for a majority's word: a member alone would tell what it last knew.
func (s *v2) list(ctx context.Context) (got listing, err error) {
	err = s.web.each(ctx, func() error {
		got, err = s.listOne(ctx)
		return err
	})
	return got, err
}

func (s *v2) listOne(ctx context.Context) (listing, error) {
	said, err := s.web.get(ctx, s.path+"?recursive=true&quorum=true")
	if err != nil {
		return listing{}, err
	}
	at, found, err := where(said)
	l := listing{position: at, values: make(map[string]string)}
	if err != nil || !found {
		return l, err
	}
	var top struct {
		Node node `json:"node"`
	}
	if err := json.Unmarshal(said.body, &top); err != nil {
		return listing{}, fmt.Errorf("the answer is no JSON: %w", err)
	}
	if !top.Node.Dir {
		return listing{}, fmt.Errorf("%s is a key and no directory", s.prefix)
	}
	s.collect(l.values, top.Node)
	return l, nil
}

func (s *v2) collect(values map[string]string, n node) {
	if path, below := strings.CutPrefix(n.Key, s.prefix+"/"); below && !n.Dir {
		values[path] = n.Value
	}
	for _, child := range n.Nodes {
		s.collect(values, child)
	}
}

// refusal is etcd's answer when it refuses.
type refusal struct {
	Code    int    `json:"errorCode"`
	Message string `json:"message"`
}

// The codes of refusals that mean something to us.
const (
	codeNotFound = 100
	codeCleared  = 401 // the index is older than the last 1,000 events
)

func (r refusal) Error() string { return r.Message }

// where tells where the store is according to an answer, and whether there was something.
func where(said answer) (at position, found bool, err error) {
	at.cluster = said.header.Get("X-Etcd-Cluster-Id")
	at.at, err = strconv.ParseUint(said.header.Get("X-Etcd-Index"), 10, 64)
	if said.status == http.StatusOK && err == nil {
		return at, true, nil
	}
	refused := refusal{}
	isJSON := json.Unmarshal(said.body, &refused) == nil
	switch {
	case isJSON && refused.Code == codeNotFound && err == nil:
		return at, false, nil
	case isJSON && refused.Code != 0:
		return position{}, false, refused
	case said.status == http.StatusNotFound: // 3.x without --enable-v2 says "404 page not found"
		return position{}, false, errAbsent
	case said.status == http.StatusOK:
		return position{}, false, errors.New("the answer has no X-Etcd-Index, so it is not etcd's")
	default:
		return position{}, false, fmt.Errorf("%d %s", said.status, http.StatusText(said.status))
	}
}

// position asks the member that the stream comes from.
func (s *v2) position(ctx context.Context) (position, error) {
	said, err := s.web.get(ctx, s.path+"?quorum=true")
	if err != nil {
		s.web.failover()
		return position{}, err
	}
	at, _, err := where(said)
	if err != nil {
		s.web.failover()
	}
	return at, err
}

// open begins the stream before it lists, and leaves out of the stream what the list has. A stream that is to begin in the
// past would give one event and then nothing more (seen with 3.4).
func (s *v2) open(ctx context.Context) (got listing, events stream, err error) {
	err = s.web.each(ctx, func() error {
		watching, cancel := context.WithCancelCause(ctx)
		limit := time.AfterFunc(s.web.patience, func() { cancel(errSilent) })
		resp, err := s.web.begin(watching, s.path+"?wait=true&recursive=true&stream=true")
		if !limit.Stop() || err != nil {
			err = causeOf(watching, err)
			cancel(nil)
			return err
		}
		if resp.StatusCode == http.StatusOK {
			got, err = s.listOne(ctx)
		} else {
			err = refused(resp)
		}
		if err != nil {
			cancel(nil)
			resp.Body.Close()
			return err
		}
		stream := &v2stream{store: s, body: resp.Body, lines: bufio.NewReaderSize(resp.Body, 64<<10), after: got.at}
		stream.shown.Store(got.at)
		events = stream
		return nil
	})
	return got, events, err
}

// history asks for one event after another.
func (s *v2) history(ctx context.Context, after, until uint64, use func([]event) bool) error {
	for after < until {
		said, err := s.web.get(ctx, s.path+"?wait=true&recursive=true&waitIndex="+strconv.FormatUint(after+1, 10))
		if err != nil {
			return errForgotten
		}
		e, ok := s.parse(said.body)
		if said.status != http.StatusOK || !ok {
			return errForgotten // also with codeCleared
		}
		if use([]event{e}) {
			return nil
		}
		after = e.at
	}
	return errForgotten
}
