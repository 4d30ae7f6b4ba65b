package fakeregistrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Engine is a Docker engine.
type Engine struct {
	Socket string // path of its Unix socket
	Label  string // containers without it are not seen; empty: all are
	IP     string // of the host, where a port is published on all of its addresses
}

// Follow makes the engine's containers those of r, as they start and end, until ctx ends or the engine answers no more. What
// could not be written goes to Failed. r may have followed before.
func (r *Registrator) Follow(ctx context.Context, e Engine) error {
	events, err := e.get(ctx, "/events", filter{"type": {"container"}, "event": {"start", "die"}})
	if err != nil {
		return err
	}
	defer func() { _ = events.Close() }() // it was only read
	if err := r.followRunning(ctx, e); err != nil {
		return err
	}
	for in := json.NewDecoder(events); ; {
		var event struct {
			ID, Action string
			Actor      struct{ Attributes map[string]string }
		}
		if err := in.Decode(&event); err != nil {
			return fmt.Errorf("events of Docker: %w", err)
		}
		name := event.Actor.Attributes["name"]
		if r.has(name) {
			r.tell(r.Remove(ctx, name))
		}
		if event.Action == "start" {
			r.tell(r.follow(ctx, e, event.ID))
		}
	}
}

// followRunning brings r up to what runs now.
func (r *Registrator) followRunning(ctx context.Context, e Engine) error {
	body, err := e.get(ctx, "/containers/json", filter{})
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	var list []struct {
		ID    string
		Names []string
	}
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		return fmt.Errorf("containers of Docker: %w", err)
	}
	var names []string
	for _, c := range list {
		name := strings.TrimPrefix(strings.Join(c.Names, " "), "/")
		names = append(names, name)
		if !r.has(name) {
			r.tell(r.follow(ctx, e, c.ID))
		}
	}
	for _, name := range r.names() {
		if !slices.Contains(names, name) {
			r.tell(r.Remove(ctx, name))
		}
	}
	return nil
}

// follow adds a container that runs. It may have ended already: then it has no ports, and its end is an event to come.
func (r *Registrator) follow(ctx context.Context, e Engine, id string) error {
	body, err := e.get(ctx, "/containers/"+id+"/json", nil)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	var c inspected
	if err := json.NewDecoder(body).Decode(&c); err != nil {
		return fmt.Errorf("container %s of Docker: %w", id, err)
	}
	return r.Add(ctx, c.container(e.IP))
}

func (r *Registrator) tell(err error) {
	if err != nil && r.Failed != nil {
		r.Failed(err)
	}
}

func (r *Registrator) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, c := range r.containers {
		names = append(names, c.Name)
	}
	return names
}

func (r *Registrator) has(name string) bool { return slices.Contains(r.names(), name) }

// inspected is what Docker tells of a container.
type inspected struct {
	Name   string
	Config struct {
		Image  string
		Env    []string
		Labels map[string]string
	}
	NetworkSettings struct {
		Ports map[string][]struct{ HostIP, HostPort string } // by "80/tcp"; none where it is not published
	}
}

// container gives it as registrator sees it: labels count as environment, and the first address that a port is published on.
func (i inspected) container(hostIP string) Container {
	c := Container{Name: strings.TrimPrefix(i.Name, "/"), Image: i.Config.Image, Env: maps.Clone(i.Config.Labels)}
	if c.Env == nil {
		c.Env = map[string]string{}
	}
	for _, variable := range i.Config.Env {
		name, value, _ := strings.Cut(variable, "=")
		c.Env[name] = value
	}
	for port, published := range i.NetworkSettings.Ports {
		number, proto, _ := strings.Cut(port, "/")
		exposed, err := strconv.ParseUint(number, 10, 16)
		if err != nil || len(published) == 0 {
			continue
		}
		ip := published[0].HostIP
		if ip == "0.0.0.0" || ip == "::" || ip == "" {
			ip = hostIP
		}
		c.Ports = append(c.Ports, Port{Exposed: uint16(exposed), UDP: proto == "udp", Addr: net.JoinHostPort(ip, published[0].HostPort)})
	}
	return c
}

// filter is what Docker filters a list by.
type filter map[string][]string

// get asks the engine. The answer to nothing but a nil filter is about containers without the label, too.
func (e Engine) get(ctx context.Context, path string, f filter) (io.ReadCloser, error) {
	if f != nil {
		if e.Label != "" {
			f["label"] = []string{e.Label}
		}
		text, err := json.Marshal(f)
		if err != nil {
			return nil, err
		}
		path += "?filters=" + url.QueryEscape(string(text))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	// Each question has a connection of its own, which ends with the answer.
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.Socket)
	}
	resp, err := (&http.Transport{DialContext: dial, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask Docker: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, errors.Join(fmt.Errorf("ask Docker for %s: %s: %s", path, resp.Status, strings.TrimSpace(string(text))), resp.Body.Close())
	}
	return resp.Body, nil
}
