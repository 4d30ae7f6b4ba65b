package fakeregistrator

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// v3 asks etcd's own JSON gateway, so that no client library is needed. []byte is base64 in JSON, as the gateway wants it.
type v3 struct{ *client }

// V3 gives the v3 store of the etcd, 3.4 or newer, at "host:port", with commas between several members.
func V3(addrs string) Store { return v3{newClient(addrs)} }

type put struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
	Lease string `json:"lease,omitempty"` // an int64, in a string
}

// keyRange is the keys from Key up to, without, End; Key alone where End is empty.
type keyRange struct {
	Key []byte `json:"key"`
	End []byte `json:"range_end,omitempty"`
}

// Set takes a new lease each time, as the fork of registrator does: the old one expires without a key.
func (s v3) Set(ctx context.Context, key, value string, ttl time.Duration) error {
	p := put{Key: []byte(key), Value: []byte(value)}
	if ttl > 0 {
		var lease struct{ ID string }
		if err := s.post(ctx, "/v3/lease/grant", map[string]int{"TTL": seconds(ttl)}, &lease); err != nil {
			return fmt.Errorf("lease for %.100q: %w", key, err)
		}
		p.Lease = lease.ID
	}
	if err := s.post(ctx, "/v3/kv/put", p, nil); err != nil {
		return fmt.Errorf("set %.100q in the v3 store: %w", key, err)
	}
	return nil
}

func (s v3) Delete(ctx context.Context, key string) error {
	if err := s.post(ctx, "/v3/kv/deleterange", keyRange{Key: []byte(key)}, nil); err != nil {
		return fmt.Errorf("delete %.100q in the v3 store: %w", key, err)
	}
	return nil
}

func (s v3) services(ctx context.Context, prefix string) ([]entry, error) {
	var found struct{ Kvs []put }
	// "0" follows "/": the range is what begins with prefix/.
	if err := s.post(ctx, "/v3/kv/range", keyRange{[]byte(prefix + "/"), []byte(prefix + "0")}, &found); err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	var out []entry
	for _, kv := range found.Kvs {
		service, id, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), prefix+"/"), "/")
		out = append(out, entry{service, id, string(kv.Value)})
	}
	return out, nil
}

// post decodes the answer into answer, unless that is nil.
func (s v3) post(ctx context.Context, path string, question, answer any) error {
	raw, err := json.Marshal(question)
	if err != nil {
		return err
	}
	status, body, err := s.ask(ctx, request{http.MethodPost, path, "application/json", string(raw)})
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refused(status, body)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}
