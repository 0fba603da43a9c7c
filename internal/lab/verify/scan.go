package verify

import (
	"context"
	"fmt"
	"math"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"golang.org/x/sync/errgroup"

	"github.com/zdmproject/terraform-provider-zdm/internal/lab/journal"
)

// Scan is a Source over the table of package load in one cluster.
type Scan struct {
	Session  *gocql.Session
	Keyspace string
	// Ranges of the ring that are read one after the other, Readers of them at
	// a time; 0 means 16 and 2.
	Ranges, Readers int
}

// Each reads the whole table by ranges of tokens, page by page, at QUORUM:
// what was acknowledged at QUORUM must show.
func (s Scan) Each(ctx context.Context, each func(journal.Found)) error {
	ranges, readers := s.Ranges, s.Readers
	if ranges == 0 {
		ranges = 16
	}
	if readers == 0 {
		readers = 2
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for _, r := range tokenRanges(ranges) {
		g.Go(func() error { return s.read(ctx, r, each) })
	}
	return g.Wait()
}

// tokenRange holds the tokens from First to Last, both included.
type tokenRange struct{ First, Last int64 }

// tokenRanges cuts the ring of the Murmur3 partitioner into n ranges.
func tokenRanges(n int) []tokenRange {
	out := make([]tokenRange, n)
	step := math.MaxUint64 / uint64(n)
	for i := range out {
		out[i].First = int64(uint64(i)*step) + math.MinInt64
		out[i].Last = int64(uint64(i+1)*step-1) + math.MinInt64
	}
	out[n-1].Last = math.MaxInt64
	return out
}

func (s Scan) read(ctx context.Context, r tokenRange, each func(journal.Found)) error {
	text := fmt.Sprintf("SELECT bucket, slot, version, value FROM %s.item WHERE token(bucket) >= ? AND token(bucket) <= ?", s.Keyspace)
	iter := s.Session.Query(text, r.First, r.Last).
		Idempotent(true).RetryPolicy(&gocql.SimpleRetryPolicy{NumRetries: 3}).
		Consistency(gocql.Quorum).IterContext(ctx)
	var f journal.Found
	for iter.Scan(&f.Bucket, &f.Slot, &f.Version, &f.Value) {
		each(f)
	}
	return iter.Close()
}
