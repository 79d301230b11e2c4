package ssmbackend

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// Get returns the latest version of id for version 0, else that version, in one
// call. NotFound where there is none, and where it is not among the newest 100.
func (s *Store) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "ssm.Get"
	e, err := s.get(ctx, call{op: op, id: id}, version)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, id.Key)
	}
	return e, nil
}

func (s *Store) get(ctx context.Context, c call, version uint64) (config.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return config.Entry{}, err
	}
	name, err := s.nameToRead(c.id)
	if err != nil {
		return config.Entry{}, err
	}
	if version > math.MaxInt64 { // which Parameter Store can not count to
		return config.Entry{}, errNotFound()
	}
	p, err := s.parameter(ctx, c, name, version, true)
	if err != nil {
		return config.Entry{}, err
	}
	return entryOf(c.id, name, p)
}

// parameter reads one parameter, the latest version for 0.
func (s *Store) parameter(ctx context.Context, c call, name string, version uint64, decrypt bool) (*types.Parameter, error) {
	selector := name
	if version > 0 {
		selector += ":" + strconv.FormatUint(version, 10)
	}
	out, err := do(ctx, s, c, s.client.GetParameter, &ssm.GetParameterInput{Name: aws.String(selector), WithDecryption: aws.Bool(decrypt)})
	if err != nil {
		return nil, err
	}
	p := out.Parameter
	if p == nil || aws.ToString(p.Name) != name || version > 0 && uint64(p.Version) != version {
		return nil, errForeign()
	}
	return p, nil
}

// usable is the first check of every call.
func (s *Store) usable(ctx context.Context) error {
	if s.closed.Load() {
		return errClosed()
	}
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return nil
}

// batchNames is how many parameters one GetParameters takes, batchesAtOnce how
// many of them one BatchGet makes at a time.
const (
	batchNames    = 10
	batchesAtOnce = 4
)

// BatchGet reads ten IDs a call, each once. IDs that a call failed for have its
// error, and where access was denied they are asked for one by one, so that the
// others do not suffer; the call itself fails only where every one did.
func (s *Store) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "ssm.BatchGet"
	const each = "ssm.Get" // a batch is many Gets, down to their errors
	if err := s.usable(ctx); err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	results := make([]driver.Result, len(ids))
	b := newBatch()
	names := make([]string, len(ids))
	for i, id := range ids {
		name, err := s.nameToRead(id)
		if err != nil {
			results[i].Err = config.AsError(err, each, id.Key)
			continue
		}
		names[i] = name
		b.add(name, s.creditor(id.Tenant))
	}
	if err := s.fill(ctx, op, b); err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	for i, id := range ids {
		if results[i].Err != nil {
			continue
		}
		e, err := b.result(id, names[i])
		if err != nil {
			results[i].Err = config.AsError(err, each, id.Key)
			continue
		}
		results[i].Entry = e
	}
	return results, nil
}

// creditor is the tenant whose credentials a call for t takes: none where all
// tenants share the plugin's own.
func (s *Store) creditor(t config.Tenant) config.Tenant {
	if s.conn.Credentials(t) == nil {
		return config.Tenant{}
	}
	return t
}

// batch gathers the names of a BatchGet and what came of each.
type batch struct {
	chunks []chunk
	open   map[config.Tenant]int // creditor -> its chunk that is not full
	known  map[string]bool
	found  map[string]*types.Parameter
	failed map[string]error
}

// chunk is one GetParameters.
type chunk struct {
	creditor config.Tenant
	names    []string
	out      *ssm.GetParametersOutput
	err      error
}

func newBatch() *batch {
	return &batch{
		open: map[config.Tenant]int{}, known: map[string]bool{},
		found: map[string]*types.Parameter{}, failed: map[string]error{},
	}
}

func (b *batch) add(name string, creditor config.Tenant) {
	if b.known[name] {
		return
	}
	b.known[name] = true
	i, ok := b.open[creditor]
	if !ok || len(b.chunks[i].names) == batchNames {
		i = len(b.chunks)
		b.chunks = append(b.chunks, chunk{creditor: creditor})
		b.open[creditor] = i
	}
	b.chunks[i].names = append(b.chunks[i].names, name)
}

// fill makes the calls. It fails where every call did.
func (s *Store) fill(ctx context.Context, op string, b *batch) error {
	parts := make([][]chunk, len(b.chunks))
	var g errgroup.Group
	g.SetLimit(batchesAtOnce)
	for i, c := range b.chunks {
		g.Go(func() error {
			s.ask(ctx, op, &c)
			parts[i] = []chunk{c}
			if len(c.names) > 1 && ofOne(c.err) {
				parts[i] = s.askEach(ctx, op, c)
			}
			return nil
		})
	}
	_ = g.Wait() // each chunk has its own error
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	var failed error
	answered := len(parts) == 0
	for _, c := range slices.Concat(parts...) {
		if c.err != nil {
			failed = cmp.Or(failed, c.err)
		} else {
			answered = true
		}
		b.note(c)
	}
	if !answered {
		return failed
	}
	return nil
}

// ask makes the call for one chunk.
func (s *Store) ask(ctx context.Context, op string, c *chunk) {
	c.out, c.err = do(ctx, s, call{op: op, id: config.ID{Tenant: c.creditor}}, s.client.GetParameters,
		&ssm.GetParametersInput{Names: c.names, WithDecryption: aws.Bool(true)})
}

// ofOne reports whether an error may be that of one parameter among many: one
// that the role may not read, or whose key of KMS it may not use, or which is
// disabled. AWS refuses the whole call then, and does not say which it was.
func ofOne(err error) bool {
	return errors.Is(err, config.PermissionDenied) || errors.As(err, new(*types.InvalidKeyId))
}

// askEach asks for every name of a chunk by itself.
func (s *Store) askEach(ctx context.Context, op string, c chunk) []chunk {
	alone := make([]chunk, len(c.names))
	for i, name := range c.names {
		alone[i] = chunk{creditor: c.creditor, names: []string{name}}
		s.ask(ctx, op, &alone[i])
	}
	return alone
}

func (b *batch) note(c chunk) {
	for _, name := range c.names {
		b.failed[name] = c.err
	}
	if c.err != nil {
		return
	}
	for i, p := range c.out.Parameters {
		b.found[aws.ToString(p.Name)] = &c.out.Parameters[i]
	}
	for _, name := range c.out.InvalidParameters {
		b.failed[name] = errNotFound()
	}
}

// result returns what came of one name. A name that Parameter Store said
// nothing about is Internal: it is not known to be missing.
func (b *batch) result(id config.ID, name string) (config.Entry, error) {
	if p := b.found[name]; p != nil {
		return entryOf(id, name, p)
	}
	if err := b.failed[name]; err != nil {
		return config.Entry{}, err
	}
	return config.Entry{}, errForeign()
}
