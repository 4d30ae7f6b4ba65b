package registrator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/status"
)

// maxKeys bounds what a wrong prefix can make us read. 5,000 keys are a large cluster.
const maxKeys = 200_000

// v3 reads etcd's v3 store. It is for one goroutine, apart from position.
type v3 struct {
	config clientv3.Config
	prefix string // with a slash at the end
	web    *web   // for what etcd's client does not tell
	client atomic.Pointer[clientv3.Client]
}

// newV3 does not connect.
func newV3(where location, secure *tls.Config, web *web) *v3 {
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	s := &v3{prefix: where.prefix + "/", web: web}
	for _, addr := range where.addrs {
		s.config.Endpoints = append(s.config.Endpoints, scheme+addr)
	}
	s.config.TLS, s.config.Username, s.config.Password = secure, where.user, where.password
	s.config.Logger = zap.NewNop() // it would write to stderr
	s.config.DialTimeout = 5 * time.Second
	s.config.DialKeepAliveTime, s.config.DialKeepAliveTimeout = 10*time.Second, 5*time.Second
	// gRPC's own pauses between two attempts to connect grow to two minutes.
	s.config.DialOptions = []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 3 * time.Second,
		Backoff: grpcbackoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}})}
	return s
}

func (s *v3) name() string { return storeV3 }

func (s *v3) close() {
	s.web.http.CloseIdleConnections()
	if c := s.client.Swap(nil); c != nil {
		c.Close() // the connection is of no more use, whatever it says
	}
}

// connected gives the client. With a user, that asks etcd for a token.
func (s *v3) connected(ctx context.Context) (*clientv3.Client, error) {
	if c := s.client.Load(); c != nil {
		return c, nil
	}
	// gRPC keeps to itself why it cannot connect, until our deadline.
	switch version, err := s.web.version(ctx); {
	case errors.Is(err, errRefused):
		return nil, err
	case strings.HasPrefix(version, "2."), strings.HasPrefix(version, "0."):
		return nil, errAbsent
	}
	c, err := clientv3.New(s.config)
	if err != nil {
		return nil, plain(err)
	}
	s.client.Store(c)
	return c, nil
}

func (s *v3) list(ctx context.Context) (listing, error) {
	c, err := s.connected(ctx)
	if err != nil {
		return listing{}, err
	}
	got, err := c.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithLimit(maxKeys))
	if err != nil {
		return listing{}, plain(err)
	}
	if got.More {
		return listing{}, fmt.Errorf("there are more than %d keys below %s", maxKeys, s.prefix)
	}
	l := listing{values: make(map[string]string, len(got.Kvs)),
		position: position{cluster: fmt.Sprintf("%x", got.Header.ClusterId), at: uint64(got.Header.Revision)}}
	for _, kv := range got.Kvs {
		l.values[strings.TrimPrefix(string(kv.Key), s.prefix)] = string(kv.Value)
	}
	return l, nil
}

// position counts the keys, which needs the right to read them, and reads none.
func (s *v3) position(ctx context.Context) (position, error) {
	c := s.client.Load()
	if c == nil {
		return position{}, errors.New("not connected")
	}
	got, err := c.Get(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return position{}, plain(err)
	}
	return position{cluster: fmt.Sprintf("%x", got.Header.ClusterId), at: uint64(got.Header.Revision)}, nil
}

func (s *v3) open(ctx context.Context) (listing, stream, error) {
	got, err := s.list(ctx)
	if err != nil {
		return listing{}, nil, err
	}
	return got, s.from(ctx, got.at), nil
}

// history has a watch that begins in the past.
func (s *v3) history(ctx context.Context, after, _ uint64, use func([]event) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for w := s.from(ctx, after); ; {
		events, err := w.next(ctx, 0)
		if err != nil {
			return errForgotten
		}
		if use(events) {
			return nil
		}
	}
}

// plain leaves out of an error what differs from one attempt to the next, and what etcd's client puts around it.
func plain(err error) error {
	text := err.Error()
	if s, ok := status.FromError(err); ok && s.Message() != "" {
		text = s.Message()
	}
	return errors.New(ownAddress.ReplaceAllString(text, "$1 "))
}

// ownAddress finds our side of a connection.
var ownAddress = regexp.MustCompile(`(tcp) \S+->`)
