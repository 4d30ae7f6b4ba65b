package registrator

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// v3stream is a watch on all keys. The client connects it again by itself, where it stopped.
//
// While keys are rewritten in masses it is cut off and begun again where it was: etcd then sends at once what came meanwhile,
// within 100 ms, while a watch that keeps up gets a message for every key. 2,500 messages a second cost an eighth of a core.
type v3stream struct {
	store   *v3
	client  *clientv3.Client
	ctx     context.Context // of the watch that is on
	cancel  context.CancelFunc
	watched clientv3.WatchChan
	after   int64 // the revision that was shown last
	rate    counter

	shown    atomic.Uint64 // etcd has shown everything up to this
	asked    atomic.Uint64 // where the store was when lags was called last
	progress atomic.Bool   // etcd answers to requests for progress
}

// breath is how long a stream is left off while there is too much in it.
const breath = 50 * time.Millisecond

// from begins a stream with what happened after a revision.
func (s *v3) from(ctx context.Context, after uint64) *v3stream {
	w := &v3stream{store: s, client: s.client.Load(), after: int64(after), cancel: func() {}}
	w.asked.Store(after)
	w.shown.Store(after)
	w.ctx = clientv3.WithRequireLeader(ctx) // a member that lost the others would stay silent
	w.watch(ctx)
	return w
}

func (w *v3stream) watch(ctx context.Context) {
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	w.cancel = cancel
	w.watched = w.client.Watch(watching, w.store.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.after+1))
}

func (w *v3stream) next(ctx context.Context, stale int) ([]event, error) {
	if w.rate.saw(stale, time.Now()); w.rate.many && stale > 0 {
		w.cancel()
		sleep(ctx, breath)
		w.watch(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			w.cancel()
			return nil, ctx.Err()
		case got, ok := <-w.watched:
			if !ok {
				return nil, errors.New("the watch ended")
			}
			if events, err := w.read(got); err != nil || len(events) > 0 {
				return events, err
			}
		}
	}
}

func (w *v3stream) read(got clientv3.WatchResponse) ([]event, error) {
	switch err := got.Err(); {
	case errors.Is(err, rpctypes.ErrCompacted):
		return nil, errAgain
	case err != nil:
		return nil, plain(err)
	}
	if got.IsProgressNotify() {
		w.progress.Store(true)
		w.shown.Store(max(w.shown.Load(), uint64(got.Header.Revision)))
		return nil, nil
	}
	var events []event
	for _, e := range got.Events {
		w.after = max(w.after, e.Kv.ModRevision)
		events = append(events, event{at: uint64(e.Kv.ModRevision), change: change{
			path: strings.TrimPrefix(string(e.Kv.Key), w.store.prefix), value: string(e.Kv.Value), gone: e.Type == mvccpb.Event_DELETE}})
	}
	w.shown.Store(max(w.shown.Load(), uint64(w.after)))
	return events, nil
}

// lags asks etcd to tell in the stream how far that is, which comes until the next call. Before 3.4 etcd does not answer.
func (w *v3stream) lags(now uint64) bool {
	before := w.asked.Swap(now)
	limited, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	_ = w.client.RequestProgress(limited) // if it fails, the stream will soon
	return w.progress.Load() && w.shown.Load() < before
}

// lost is false: etcd sends everything later to a watch that cannot keep up, or ends it.
func (w *v3stream) lost(context.Context) bool { return false }
