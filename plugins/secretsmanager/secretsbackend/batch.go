package secretsbackend

import (
	"context"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

const (
	// batchSize is how many secrets BatchGetSecretValue takes.
	batchSize = 20
	// parallel bounds the calls that one call of the driver makes at a time.
	parallel = 8
)

// BatchGet reads 20 secrets per call of BatchGetSecretValue. With a tenant role
// every tenant's are read in calls of their own.
func (s *Store) BatchGet(ctx context.Context, ids []config.ID) ([]driver.Result, error) {
	const op = "secretsmanager.BatchGet"
	if err := s.begin(ctx); err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	results := s.batch(ctx, ids)
	if ctx.Err() != nil {
		return nil, config.AsError(ended(ctx, false), op, config.Key{})
	}
	return s.results(op, ids, results)
}

// results names the keys in the errors, and fails the call whole where nothing
// at all could be read.
func (s *Store) results(op string, ids []config.ID, results []driver.Result) ([]driver.Result, error) {
	var failed error
	read := len(ids) == 0
	for i := range results {
		err := results[i].Err
		if err == nil {
			read = true
			continue
		}
		switch config.CodeOf(err) {
		case config.NotFound, config.InvalidArgument:
			read = true
		default:
			failed = s.orClosed(err)
		}
		results[i] = driver.Result{Err: config.AsError(s.orClosed(err), "secretsmanager.Get", ids[i].Key)}
	}
	if !read {
		return nil, config.AsError(failed, op, config.Key{})
	}
	return results, nil
}

// each asks for every distinct ID by itself, several at a time.
func (s *Store) each(ctx context.Context, op string, ids []config.ID, ask func(context.Context, config.ID) (config.Entry, error)) ([]driver.Result, error) {
	if err := s.begin(ctx); err != nil {
		return nil, config.AsError(err, op, config.Key{})
	}
	first := map[config.ID]int{}
	results := make([]driver.Result, len(ids))
	var g errgroup.Group
	g.SetLimit(parallel)
	for i, id := range ids {
		if _, ok := first[id]; ok {
			continue
		}
		first[id] = i
		g.Go(func() error {
			results[i].Entry, results[i].Err = ask(ctx, id)
			if results[i].Err != nil {
				results[i].Entry = config.Entry{}
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in the results
	for i, id := range ids {
		if f := first[id]; f != i {
			results[i] = driver.Result{Entry: results[f].Entry.Clone(), Err: results[f].Err}
		}
	}
	if ctx.Err() != nil {
		return nil, config.AsError(ended(ctx, false), op, config.Key{})
	}
	return s.results(op, ids, results)
}

// batch answers every ID; its errors name no key yet.
func (s *Store) batch(ctx context.Context, ids []config.ID) []driver.Result {
	type place struct {
		id   config.ID
		name string
		at   []int
	}
	results := make([]driver.Result, len(ids))
	places := map[string]*place{}
	chunks := map[config.Tenant][][]*place{} // by tenant where that matters
	var order []*place
	for i, id := range ids {
		name, err := s.path(id)
		if err != nil {
			results[i].Err = err
			continue
		}
		p := places[name]
		if p == nil {
			p = &place{id: id, name: name}
			places[name] = p
			order = append(order, p)
		}
		p.at = append(p.at, i)
	}
	for _, p := range order {
		var whose config.Tenant
		if s.conn.Credentials(p.id.Tenant) != nil {
			whose = p.id.Tenant
		}
		c := chunks[whose]
		if len(c) == 0 || len(c[len(c)-1]) == batchSize {
			c = append(c, nil)
		}
		c[len(c)-1] = append(c[len(c)-1], p)
		chunks[whose] = c
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	for tenant, of := range chunks {
		for _, chunk := range of {
			g.Go(func() error {
				wanted := make([]wanted, len(chunk))
				for i, p := range chunk {
					wanted[i].id, wanted[i].name = p.id, p.name
				}
				s.chunk(ctx, tenant, wanted)
				for i, p := range chunk {
					for n, at := range p.at {
						results[at] = wanted[i].Result
						if n > 0 {
							results[at].Entry = results[at].Entry.Clone()
						}
					}
				}
				return nil
			})
		}
	}
	_ = g.Wait() // the errors are in the results
	return results
}

// wanted is one secret of a chunk, and what became of it.
type wanted struct {
	id   config.ID
	name string
	driver.Result
	answered bool
}

// chunk answers up to batchSize secrets. What the batch does not settle (a
// version of another tool, an answer that is not the current version or older
// than what is known, none at all) is read by itself.
func (s *Store) chunk(ctx context.Context, tenant config.Tenant, all []wanted) {
	find := func(name *string) *wanted {
		i := slices.IndexFunc(all, func(w wanted) bool { return w.name == aws.ToString(name) })
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	in := &secretsmanager.BatchGetSecretValueInput{}
	for _, w := range all {
		in.SecretIdList = append(in.SecretIdList, w.name)
	}
	for range all { // a page has one at least
		out, err := s.batchPage(ctx, tenant, in)
		if err != nil {
			err = s.readError(ctx, err)
			for i := range all {
				if !all[i].answered {
					all[i].Result, all[i].answered = driver.Result{Err: err}, true
				}
			}
			return
		}
		for _, v := range out.SecretValues {
			w := find(v.Name)
			if w == nil || !slices.Contains(v.VersionStages, labelCurrent) {
				continue
			}
			got := secret{arn: aws.ToString(v.ARN), stamp: readStamp(aws.ToString(v.VersionId)), value: content(v.SecretString, v.SecretBinary)}
			if !got.own || s.stale(w.name, got.arn, got.number) {
				continue
			}
			w.Entry, w.Err = s.current(ctx, w.id, w.name, got)
			if w.Err != nil {
				w.Entry = config.Entry{}
			}
			w.answered = true
		}
		for _, e := range out.Errors {
			w := find(e.SecretId)
			if w == nil {
				continue
			}
			code, message := aws.ToString(e.ErrorCode), aws.ToString(e.Message)
			if code == codeAbsent || scheduledText(code, message) {
				if s.stale(w.name, "", 0) {
					continue
				}
				w.Err, w.answered = errNotFound(), true
				continue
			}
			w.Err, w.answered = fail(&smithy.GenericAPIError{Code: code, Message: message}, false), true
		}
		if in.NextToken = out.NextToken; aws.ToString(in.NextToken) == "" {
			break
		}
	}
	var wg sync.WaitGroup
	free := make(chan struct{}, parallel)
	for i := range all {
		if w := &all[i]; !w.answered {
			wg.Go(func() {
				free <- struct{}{}
				defer func() { <-free }()
				if w.Entry, w.Err = s.latest(ctx, w.id, w.name); w.Err != nil {
					w.Entry = config.Entry{}
				}
			})
		}
	}
	wg.Wait()
}

func (s *Store) batchPage(ctx context.Context, tenant config.Tenant, in *secretsmanager.BatchGetSecretValueInput) (*secretsmanager.BatchGetSecretValueOutput, error) {
	ctx, cancel := s.conn.WithTimeout(ctx)
	defer cancel()
	if tenant.IsZero() {
		return s.api.BatchGetSecretValue(ctx, in)
	}
	return s.api.BatchGetSecretValue(ctx, in, s.as(tenant))
}
