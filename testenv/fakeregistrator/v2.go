package fakeregistrator

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// v2 asks as go-etcd does, which upstream's registrator uses.
type v2 struct{ *client }

// V2 gives the v2 store of the etcd at "host:port", with commas between several members. etcd has it in releases before 3.6,
// since 3.4 with --enable-v2 only.
func V2(addrs string) Store { return v2{newClient(addrs)} }

func (s v2) Set(ctx context.Context, key, value string, ttl time.Duration) error {
	form := url.Values{}
	if value != "" {
		form.Set("value", value)
	}
	if ttl > 0 {
		form.Set("ttl", strconv.Itoa(seconds(ttl)))
	}
	status, body, err := s.ask(ctx, request{http.MethodPut, keyPath(key), "application/x-www-form-urlencoded; param=value", form.Encode()})
	if err == nil && status != http.StatusOK && status != http.StatusCreated {
		err = refused(status, body)
	}
	if err != nil {
		return fmt.Errorf("set %.100q in the v2 store: %w", key, err)
	}
	return nil
}

func (s v2) Delete(ctx context.Context, key string) error {
	status, body, err := s.ask(ctx, request{method: http.MethodDelete, path: keyPath(key) + "?dir=false&recursive=false"})
	absent := status == http.StatusNotFound && bytes.Contains(body, []byte(`"errorCode":100,`)) // a plain 404: there is no v2 store
	if err == nil && status != http.StatusOK && !absent {
		err = refused(status, body)
	}
	if err != nil {
		return fmt.Errorf("delete %.100q in the v2 store: %w", key, err)
	}
	return nil
}

// services gives none, as upstream's registrator, whose -cleanup does nothing with etcd therefore.
func (s v2) services(context.Context, string) ([]entry, error) { return nil, nil }

// keyPath escapes as go-etcd does, as if the path were a query: a blank becomes "+" and stays one in the store.
func keyPath(key string) string {
	return "/v2/" + strings.ReplaceAll(url.QueryEscape(path.Join("keys", key)), "%2F", "/")
}
