package dynamodbbackend

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// The bounds of a batch: BatchGetItem takes 100 keys, and this many calls run at
// once.
const (
	batchKeys  = 100
	batchCalls = 4
)

// The delay before the keys that an answer left out are asked for again is
// random between 0 and its base, which doubles up to the most.
const (
	leftOutDelay    = 20 * time.Millisecond
	leftOutMaxDelay = time.Second
)

// BatchGet answers every ID as Get would.
func (s *Store) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "dynamodb.BatchGet"
	if err := s.begin(ctx, op, config.Key{}); err != nil {
		return nil, err
	}
	b := s.newBatch(ids)
	if s.floors == nil {
		b.read(ctx, b.all(), s.batchTable(true), config.SourceUnknown)
	} else {
		s.eventualBatch(ctx, b)
	}
	return b.results(ctx, op, ids)
}

// Refresh is BatchGet from the table with strong consistency, whatever is in
// front of it. No later read of this Backend answers older than that.
func (s *Store) Refresh(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "dynamodb.Refresh"
	if err := s.begin(ctx, op, config.Key{}); err != nil {
		return nil, err
	}
	if s.floors == nil {
		return nil, config.AsError(config.Errorf(config.Unimplemented, "this store's reads are all from the table itself"), op, config.Key{})
	}
	b := s.newBatch(ids)
	b.readAgain(ctx, b.all(), true)
	return b.results(ctx, op, ids)
}

// batch is a set of items on their way.
type batch struct {
	s     *Store
	ids   map[itemKey]config.ID
	mu    sync.Mutex
	found map[itemKey]outcome
	wrong map[config.ID]error // IDs that have no item
}

// outcome is what became of one key: its state, or an error.
type outcome struct {
	state  state
	source config.Source
	// failed is why the item could not be fetched, damaged why it can not be
	// read.
	failed, damaged error
}

func (s *Store) newBatch(ids []config.ID) *batch {
	b := &batch{s: s, ids: map[itemKey]config.ID{}, found: map[itemKey]outcome{}, wrong: map[config.ID]error{}}
	for _, id := range ids {
		if at, err := s.keymap.current(id); err != nil {
			b.wrong[id] = err
		} else {
			b.ids[at] = id
		}
	}
	return b
}

func (b *batch) all() []itemKey {
	keys := make([]itemKey, 0, len(b.ids))
	for at := range b.ids {
		keys = append(keys, at)
	}
	return keys
}

// eventualBatch reads what it can from DAX, what DAX does not answer from the
// table with eventual consistency, and what is older than this Backend knows
// once more with strong consistency.
func (s *Store) eventualBatch(ctx context.Context, b *batch) {
	ask := b.all()
	if s.dax != nil {
		b.read(ctx, ask, s.batchDAX, config.SourceDAX)
		ask = b.keys(func(_ config.ID, o outcome) bool { return o.failed != nil })
	}
	b.read(ctx, ask, s.batchTable(false), config.SourceUnknown)
	old := b.keys(func(id config.ID, o outcome) bool {
		return o.failed == nil && (o.damaged != nil || o.state.damage != nil || !s.floors.allows(id, o.state))
	})
	b.readAgain(ctx, old, false)
}

// readAgain reads with strong consistency and notes what it found.
func (b *batch) readAgain(ctx context.Context, keys []itemKey, always bool) {
	began := b.s.floors.now()
	b.read(ctx, keys, b.s.batchTable(true), config.SourceUnknown)
	for _, at := range keys {
		if o := b.found[at]; o.failed == nil && o.damaged == nil {
			b.s.floors.read(b.ids[at], o.state, began, always)
		}
	}
}

// keys returns those whose outcome is as asked for.
func (b *batch) keys(want func(config.ID, outcome) bool) []itemKey {
	var keys []itemKey
	for at, o := range b.found {
		if want(b.ids[at], o) {
			keys = append(keys, at)
		}
	}
	return keys
}

// fetcher makes one call for keys of one tenant (of any, where no tenant has
// credentials of its own).
type fetcher func(ctx context.Context, t config.Tenant, keys types.KeysAndAttributes) (*dynamodb.BatchGetItemOutput, error)

func (s *Store) batchTable(consistent bool) fetcher {
	return func(ctx context.Context, t config.Tenant, keys types.KeysAndAttributes) (*dynamodb.BatchGetItemOutput, error) {
		keys.ConsistentRead = aws.Bool(consistent)
		in := &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{s.table: keys}}
		out, err := call(ctx, s, t, in, s.db.BatchGetItem)
		if err != nil {
			return nil, readError(ctx, err)
		}
		return out, nil
	}
}

func (s *Store) batchDAX(ctx context.Context, _ config.Tenant, keys types.KeysAndAttributes) (*dynamodb.BatchGetItemOutput, error) {
	keys.ConsistentRead = aws.Bool(false)
	return s.dax.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{s.table: keys}})
}

// read fetches keys, a hundred at a time, and notes what became of each.
func (b *batch) read(ctx context.Context, keys []itemKey, fetch fetcher, source config.Source) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, batchCalls)
	for tenant, group := range b.groups(keys) {
		for chunk := range slices.Chunk(group, batchKeys) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				b.chunk(ctx, tenant, chunk, fetch, source)
			})
		}
	}
	wg.Wait()
}

// groups parts keys by tenant where each has credentials of its own.
func (b *batch) groups(keys []itemKey) map[config.Tenant][]itemKey {
	groups := map[config.Tenant][]itemKey{}
	for _, at := range keys {
		t := b.ids[at].Tenant
		if b.s.conn.Credentials(t) == nil {
			t = config.Tenant{}
		}
		groups[t] = append(groups[t], at)
	}
	return groups
}

func errLeftOut() *config.Error {
	e := config.Errorf(config.ResourceExhausted, "the table did not answer this key in time: it is throttled").
		WithHint("give the table more read capacity, or retry later")
	e.RetryAfter = time.Second
	return e
}

// chunk fetches keys that fit one call, and again those that an answer left out,
// as long as some come or time is left. What is still left out then is an error
// of its key.
func (b *batch) chunk(ctx context.Context, t config.Tenant, keys []itemKey, fetch fetcher, source config.Source) {
	items := map[itemKey]map[string]types.AttributeValue{}
	left := keys
	var failed error
	patience, cancel := b.s.conn.WithTimeout(ctx)
	defer func() { cancel() }()
	for try := 0; len(left) > 0; try++ {
		out, err := fetch(patience, t, keysOf(left))
		if err == nil {
			var next []itemKey
			if next, err = b.take(out, left, items); err == nil {
				if len(next) < len(left) {
					try = -1
					cancel()
					patience, cancel = b.s.conn.WithTimeout(ctx)
				}
				left = next
			}
		}
		if err == nil && len(left) > 0 && source == config.SourceDAX {
			err = errLeftOut() // the table may have it sooner
		}
		if err == nil && len(left) > 0 {
			most := min(leftOutDelay<<min(max(try, 0), 10), leftOutMaxDelay)
			if pause(patience, rand.N(most)) != nil { //nolint:gosec // jitter needs no secrecy
				err = errLeftOut()
			}
		}
		if err != nil {
			failed = err
			break
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, at := range keys {
		if failed != nil && slices.Contains(left, at) {
			b.found[at] = outcome{failed: failed}
			continue
		}
		st, err := stateOf(items[at])
		if err == nil && source != config.SourceDAX {
			b.s.hints.saw(b.ids[at], st)
		}
		b.found[at] = outcome{state: st, source: source, damaged: err}
	}
}

func keysOf(keys []itemKey) types.KeysAndAttributes {
	all := make([]map[string]types.AttributeValue, len(keys))
	for i, at := range keys {
		all[i] = at.attributes()
	}
	return types.KeysAndAttributes{Keys: all}
}

// take keeps the items of an answer and returns the keys that it left out. An
// item that was not asked for is an error.
func (b *batch) take(out *dynamodb.BatchGetItemOutput, asked []itemKey, items map[itemKey]map[string]types.AttributeValue) (left []itemKey, err error) {
	open := make(map[itemKey]bool, len(asked))
	for _, at := range asked {
		open[at] = true
	}
	for table, answered := range out.Responses {
		for _, item := range answered {
			at := keyOf(item)
			if table != b.s.table || !open[at] {
				return nil, errForeignItem()
			}
			delete(open, at)
			items[at] = item
		}
	}
	for table, keys := range out.UnprocessedKeys {
		for _, key := range keys.Keys {
			at := keyOf(key)
			if table != b.s.table || !open[at] {
				return nil, errForeignItem()
			}
			delete(open, at)
			left = append(left, at)
		}
	}
	return left, nil
}

// results puts the outcomes in the order that was asked for. They fail whole
// where nothing could be fetched at all.
func (b *batch) results(ctx context.Context, op string, ids []config.ID) ([]driver.Result, error) {
	const each = "dynamodb.Get" // a batch is many Gets, down to their errors
	if ctx.Err() != nil {
		return nil, contextError(ctx, op, config.Key{})
	}
	var failed error
	answered := len(b.ids) == 0
	for _, o := range b.found {
		if o.failed == nil {
			answered = true
		} else {
			failed = o.failed
		}
	}
	if !answered {
		return nil, b.s.fail(ctx, failed, op, config.Key{})
	}
	results := make([]driver.Result, len(ids))
	used := map[itemKey]bool{}
	for i, id := range ids {
		e, err := b.result(id, used)
		if err != nil {
			results[i].Err = b.s.fail(ctx, err, each, id.Key)
			continue
		}
		results[i].Entry = e
	}
	return results, nil
}

// result returns what Get would return. No two results share memory.
func (b *batch) result(id config.ID, used map[itemKey]bool) (config.Entry, error) {
	if err, ok := b.wrong[id]; ok {
		return config.Entry{}, err
	}
	at, _ := b.s.keymap.current(id)
	o := b.found[at]
	switch {
	case o.failed != nil:
		return config.Entry{}, o.failed
	case o.damaged != nil:
		return config.Entry{}, o.damaged
	}
	e, err := o.state.entry(id)
	if err != nil {
		return config.Entry{}, err
	}
	e.Source = o.source
	if used[at] {
		e = e.Clone()
	}
	used[at] = true
	return e, nil
}
