package dynamodbbackend

import (
	"context"
	"math"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

// maxQueries bounds the calls for one page. Where most items are tombstones, a
// page ends early rather than go on.
const maxQueries = 8

// List returns one page of the live entries of a scope, read with strong
// consistency. An item that can not be read fails the call with DataLoss and its
// key: no entry is left out in silence. Items whose name is no key are no
// entries.
func (s *Store) List(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	const op = "dynamodb.List"
	if err := s.begin(ctx, op, config.Key{}); err != nil {
		return driver.Page{}, err
	}
	page, err := s.list(ctx, r)
	if err != nil {
		return driver.Page{}, s.fail(ctx, err, op, config.Key{})
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, r driver.ListRequest) (driver.Page, error) {
	if r.Tenant.IsZero() {
		return driver.Page{}, config.Errorf(config.InvalidArgument, "the request has no tenant")
	}
	if _, err := config.ParseKeyPrefix(r.KeyPrefix); err != nil {
		return driver.Page{}, err
	}
	size, err := driver.CheckPageSize(r.PageSize)
	if err != nil {
		return driver.Page{}, err
	}
	scope := []string{"list", r.Tenant.String(), r.Service.String(), r.KeyPrefix}
	q := query{store: s, tenant: r.Tenant, pk: partition(r.Tenant, r.Service), forward: true}
	prefix, ok := s.keymap.listed(r.KeyPrefix)
	if r.PageToken != "" {
		if q.after, err = s.tokens.Open(r.PageToken, scope...); err != nil {
			return driver.Page{}, err
		}
	}
	if !ok {
		return driver.Page{}, nil
	}
	q.prefix = prefix
	p := pager{size: size}
	more, err := q.run(ctx, &p, func(at itemKey, item map[string]types.AttributeValue) error {
		id, ok := s.keymap.id(r.Tenant, r.Service, at.sk)
		if !ok {
			return nil
		}
		st, err := stateOf(item)
		if err == nil {
			s.hints.saw(id, st)
			if !st.live {
				return nil
			}
			err = st.damage
		}
		if err != nil {
			return config.AsError(err, "", id.Key)
		}
		e, err := st.entry(id)
		if err != nil {
			return err
		}
		return p.add(e)
	})
	if err != nil {
		return driver.Page{}, err
	}
	page := driver.Page{Entries: p.entries}
	if more {
		page.NextPageToken = s.tokens.Seal(q.after, scope...)
	}
	return page, nil
}

// pager collects a page within its bounds.
type pager struct {
	size    int
	entries []config.Entry
	bytes   int
}

// errPageFull says that an entry does not fit the page any more.
var errPageFull = config.Errorf(config.Internal, "the page is full")

func (p *pager) add(e config.Entry) error {
	if len(p.entries) == p.size || len(p.entries) > 0 && p.bytes+len(e.Value) > driver.MaxPageBytes {
		return errPageFull
	}
	p.bytes += len(e.Value)
	p.entries = append(p.entries, e)
	return nil
}

// room is how many more entries the page takes.
func (p *pager) room() int { return p.size - len(p.entries) }

// query walks one partition in order of sort key, with strong consistency.
type query struct {
	store   *Store
	tenant  config.Tenant
	pk      string
	prefix  string // what the sort keys begin with
	forward bool
	// after is the sort key behind which to go on; "" is the beginning. It moves
	// with every item that was taken.
	after string
}

// run gives items to take until the page is full, the calls are used up or there
// are no more, and reports whether there may be more.
func (q *query) run(ctx context.Context, p *pager, take func(at itemKey, item map[string]types.AttributeValue) error) (more bool, err error) {
	for range maxQueries {
		if p.room() == 0 {
			return true, nil
		}
		out, err := call(ctx, q.store, q.tenant, q.input(p.room()), q.store.db.Query)
		if err != nil {
			return false, readError(ctx, err)
		}
		for _, item := range out.Items {
			at := keyOf(item)
			if at.pk != q.pk || !strings.HasPrefix(at.sk, q.prefix) || !q.behind(at.sk) {
				return false, errForeignItem()
			}
			switch err := take(at, item); {
			case err == errPageFull: //nolint:errorlint // it is passed on by nobody
				return true, nil
			case err != nil:
				return false, err
			}
			q.after = at.sk
		}
		if len(out.LastEvaluatedKey) == 0 {
			return false, nil
		}
		last := keyOf(out.LastEvaluatedKey)
		if last.pk != q.pk || !strings.HasPrefix(last.sk, q.prefix) || last.sk != q.after && !q.behind(last.sk) {
			return false, errForeignItem()
		}
		q.after = last.sk
	}
	return true, nil
}

// behind reports whether a sort key comes after the last one.
func (q *query) behind(sk string) bool {
	switch {
	case q.after == "":
		return true
	case q.forward:
		return sk > q.after
	default:
		return sk < q.after
	}
}

func (q *query) input(limit int) *dynamodb.QueryInput {
	in := &dynamodb.QueryInput{
		TableName:                q.store.tableRef(),
		ConsistentRead:           aws.Bool(true),
		ScanIndexForward:         aws.Bool(q.forward),
		Limit:                    aws.Int32(int32(min(limit, math.MaxInt32))),
		KeyConditionExpression:   aws.String("#pk = :pk AND begins_with(#sk, :prefix)"),
		ExpressionAttributeNames: map[string]string{"#pk": attrPK, "#sk": attrSK},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": str(q.pk), ":prefix": str(q.prefix),
		},
	}
	if q.after != "" {
		in.ExclusiveStartKey = itemKey{q.pk, q.after}.attributes()
	}
	return in
}
