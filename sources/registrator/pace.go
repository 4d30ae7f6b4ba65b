package registrator

import (
	"context"
	"math/rand/v2"
	"time"
)

// counter counts events that said nothing new, to find out when they come in such a number that reading each as it comes
// would be too dear: etcd sends every rewrite of a key by itself, and that costs 50 us each time.
type counter struct {
	since time.Time
	count int
	many  bool
}

// maxCalm is how many events a second are read as they come: about 2 % of a core.
const maxCalm = 400

func (c *counter) saw(n int, now time.Time) {
	c.count += n
	if took := now.Sub(c.since); took >= time.Second {
		c.many = float64(c.count) > maxCalm*took.Seconds()
		c.since, c.count = now, 0
	}
}

// backoff gives pauses that double, each cut by up to a half at random so that many proxies do not ask in step.
type backoff struct {
	first, last time.Duration
}

// maxPause is the longest wait between two attempts.
const maxPause = 15 * time.Second

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) next() time.Duration {
	b.last = min(max(b.first, 2*b.last), max(maxPause, b.first))
	return b.last - rand.N(b.last/2+1)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
