package server

import (
	"context"
	"strings"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/config"
	tagstorev1 "github.com/tagstore/tagstore/core/gen/tagstore/v1"
	"github.com/tagstore/tagstore/core/store"
	"github.com/tagstore/tagstore/services/config/internal/access"
	"github.com/tagstore/tagstore/services/config/internal/intercept"
	"github.com/tagstore/tagstore/services/config/internal/peers"
)

// configService answers tagstore.v1.ConfigService from a store. Each method
// turns text into vocabulary, asks the store, and turns the answer into wire
// types: it decides nothing.
type configService struct {
	tagstorev1.UnimplementedConfigServiceServer
	store    *store.Store
	recovery *intercept.Recovery
	limits   Limits
	peers    *peers.Peers // nil: there are none
	chain    *intercept.Chain
	guard    *access.Guard
	rate     *tenantRate
	drained  context.Context //nolint:containedctx // of the server; done once it drains
}

var _ tagstorev1.ConfigServiceServer = (*configService)(nil)

// scope returns who is calling and the part of the store that the call is
// about: the tenant of the verified token, and the service that the request
// names.
func scope(ctx context.Context, service string) (auth.Principal, store.Scope, error) {
	caller, ok := auth.FromContext(ctx)
	if !ok || caller.Tenant.IsZero() || caller.Tenant.IsShared() {
		return auth.Principal{}, store.Scope{}, config.Errorf(config.PermissionDenied, "the caller belongs to no tenant")
	}
	narrowed, err := config.ParseService(service)
	if err != nil {
		return auth.Principal{}, store.Scope{}, err
	}
	return caller, store.Scope{Tenant: caller.Tenant, Service: narrowed}, nil
}

// about is scope for a call about one key.
func about(ctx context.Context, service, key string) (auth.Principal, store.Scope, config.Key, error) {
	caller, sc, err := scope(ctx, service)
	if err != nil {
		return auth.Principal{}, store.Scope{}, config.Key{}, err
	}
	k, err := config.ParseKey(key)
	if err != nil {
		return auth.Principal{}, store.Scope{}, config.Key{}, err
	}
	return caller, sc, k, nil
}

func (s *configService) Get(ctx context.Context, req *tagstorev1.GetRequest) (*tagstorev1.GetResponse, error) {
	_, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil, err
	}
	want, err := toWant(req)
	if err != nil {
		return nil, err
	}
	var answer store.Answer
	if req.Version == nil {
		answer, err = s.store.Get(ctx, sc, key, want)
	} else {
		answer, err = s.store.GetVersion(ctx, sc, key, req.GetVersion())
	}
	if err != nil {
		return nil, err
	}
	return &tagstorev1.GetResponse{Entry: toEntry(answer.Entry), Freshness: toFreshness(answer.Freshness)}, nil
}

func (s *configService) BatchGet(ctx context.Context, req *tagstorev1.BatchGetRequest) (*tagstorev1.BatchGetResponse, error) {
	_, sc, err := scope(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	asked := req.GetKeys()
	if len(asked) == 0 || len(asked) > store.DefaultMaxBatch {
		return nil, config.Errorf(config.InvalidArgument, "%d keys in one batch, it takes 1 to %d", len(asked), store.DefaultMaxBatch)
	}
	want, err := toStaleness(req.GetMaxStaleness())
	if err != nil {
		return nil, err
	}
	// A key that is not valid fails alone: the store is asked for the others,
	// and at holds where each of their answers belongs.
	out := make([]*tagstorev1.BatchGetResult, len(asked))
	keys, at := make([]config.Key, 0, len(asked)), make([]int, 0, len(asked))
	for i, text := range asked {
		out[i] = &tagstorev1.BatchGetResult{Key: text}
		key, err := config.ParseKey(text)
		if err != nil {
			out[i].Outcome = failed(err)
			// Not more of it than of a valid one, or it could fill the answer.
			out[i].Key = strings.ToValidUTF8(text[:min(len(text), config.MaxKey)], "")
			continue
		}
		keys, at = append(keys, key), append(at, i)
	}
	if len(keys) == 0 {
		return &tagstorev1.BatchGetResponse{Results: out}, nil
	}
	answers, err := s.store.BatchGet(ctx, sc, keys, want)
	if err != nil {
		return nil, err
	}
	for i, a := range answers {
		result := out[at[i]]
		if a.Err != nil {
			result.Outcome = failed(a.Err)
			continue
		}
		result.Outcome = &tagstorev1.BatchGetResult_Entry{Entry: toEntry(a.Entry)}
		result.Freshness = toFreshness(a.Freshness)
	}
	return &tagstorev1.BatchGetResponse{Results: out}, nil
}

func failed(err error) *tagstorev1.BatchGetResult_Error {
	return &tagstorev1.BatchGetResult_Error{Error: toStatus(err)}
}

func (s *configService) List(ctx context.Context, req *tagstorev1.ListRequest) (*tagstorev1.ListResponse, error) {
	_, sc, err := scope(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	page, err := s.store.List(ctx, store.ListRequest{
		Scope: sc, KeyPrefix: req.GetKeyPrefix(), PageSize: int(req.GetPageSize()), PageToken: req.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	s.rate.page(sc.Tenant, len(page.Entries))
	return &tagstorev1.ListResponse{
		Entries: toEntries(page.Entries), NextPageToken: page.NextPageToken, Freshness: toFreshness(page.Freshness),
	}, nil
}

func (s *configService) History(ctx context.Context, req *tagstorev1.HistoryRequest) (*tagstorev1.HistoryResponse, error) {
	_, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil, err
	}
	page, err := s.store.History(ctx, store.HistoryRequest{
		Scope: sc, Key: key, PageSize: int(req.GetPageSize()), PageToken: req.GetPageToken(),
	})
	if err != nil {
		return nil, err
	}
	s.rate.page(sc.Tenant, len(page.Entries))
	return &tagstorev1.HistoryResponse{Entries: toEntries(page.Entries), NextPageToken: page.NextPageToken}, nil
}

func (s *configService) Put(ctx context.Context, req *tagstorev1.PutRequest) (*tagstorev1.PutResponse, error) {
	caller, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil, err
	}
	entry, err := s.store.Put(ctx, store.PutRequest{
		Scope: sc, Key: key, Value: req.GetValue(), ContentType: req.GetContentType(), Expect: toExpect(req.ExpectedVersion),
		Actor: caller.Subject, Message: req.GetMessage(), IdempotencyKey: req.GetIdempotencyKey(),
	})
	if err != nil {
		return nil, err
	}
	return &tagstorev1.PutResponse{Entry: toEntry(entry), Replicas: s.tell(ctx, entry, req.GetAwaitReplicas())}, nil
}

func (s *configService) Delete(ctx context.Context, req *tagstorev1.DeleteRequest) (*tagstorev1.DeleteResponse, error) {
	caller, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil, err
	}
	entry, err := s.store.Delete(ctx, store.DeleteRequest{
		Scope: sc, Key: key, Expect: toExpect(req.ExpectedVersion),
		Actor: caller.Subject, Message: req.GetMessage(), IdempotencyKey: req.GetIdempotencyKey(), Permanent: req.GetPermanent(),
	})
	if err != nil {
		return nil, err
	}
	return &tagstorev1.DeleteResponse{Entry: toEntry(entry), Replicas: s.tell(ctx, entry, req.GetAwaitReplicas())}, nil
}

func (s *configService) Restore(ctx context.Context, req *tagstorev1.RestoreRequest) (*tagstorev1.RestoreResponse, error) {
	caller, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil, err
	}
	entry, err := s.store.Restore(ctx, store.RestoreRequest{
		Scope: sc, Key: key, Expect: toExpect(req.ExpectedVersion), Actor: caller.Subject, Message: req.GetMessage(),
	})
	if err != nil {
		return nil, err
	}
	return &tagstorev1.RestoreResponse{Entry: toEntry(entry), Replicas: s.tell(ctx, entry, req.GetAwaitReplicas())}, nil
}

func (s *configService) Rollback(ctx context.Context, req *tagstorev1.RollbackRequest) (*tagstorev1.RollbackResponse, error) {
	caller, sc, key, err := about(ctx, req.GetService(), req.GetKey())
	if err != nil {
		return nil, err
	}
	entry, err := s.store.Rollback(ctx, store.RollbackRequest{
		Scope: sc, Key: key, ToVersion: req.GetToVersion(), Expect: toExpect(req.ExpectedVersion),
		Actor: caller.Subject, Message: req.GetMessage(),
	})
	if err != nil {
		return nil, err
	}
	return &tagstorev1.RollbackResponse{Entry: toEntry(entry), Replicas: s.tell(ctx, entry, req.GetAwaitReplicas())}, nil
}
