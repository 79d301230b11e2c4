package dynamodbbackend

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// Get returns the latest live entry of id for version 0, else that version. An
// item that can not be read is DataLoss.
func (s *Store) Get(ctx context.Context, id config.ID, version uint64) (config.Entry, error) {
	const op = "dynamodb.Get"
	if err := s.begin(ctx, op, id.Key); err != nil {
		return config.Entry{}, err
	}
	at, err := s.keymap.current(id)
	if err != nil {
		return config.Entry{}, config.AsError(err, op, id.Key)
	}
	var e config.Entry
	if version == 0 {
		e, err = s.latest(ctx, id, at)
	} else {
		e, err = s.version(ctx, id, at, version)
	}
	if err != nil {
		return config.Entry{}, s.fail(ctx, err, op, id.Key)
	}
	return e, nil
}

func (s *Store) latest(ctx context.Context, id config.ID, at itemKey) (config.Entry, error) {
	if s.floors != nil {
		st, source, err := s.eventual(ctx, id, at)
		if err != nil {
			return config.Entry{}, err
		}
		e, err := st.entry(id)
		if err == nil {
			e.Source = source
		}
		return e, err
	}
	st, err := s.current(ctx, id, at)
	if err != nil {
		return config.Entry{}, err
	}
	return st.entry(id)
}

// current reads the current item with strong consistency.
func (s *Store) current(ctx context.Context, id config.ID, at itemKey) (state, error) {
	item, err := s.item(ctx, id.Tenant, at, true)
	if err != nil {
		return state{}, err
	}
	st, err := stateOf(item)
	if err == nil {
		s.hints.saw(id, st)
	}
	return st, err
}

// item reads one item; nil if there is none.
func (s *Store) item(ctx context.Context, t config.Tenant, at itemKey, consistent bool) (map[string]types.AttributeValue, error) {
	in := &dynamodb.GetItemInput{TableName: s.tableRef(), Key: at.attributes(), ConsistentRead: aws.Bool(consistent)}
	out, err := call(ctx, s, t, in, s.db.GetItem)
	if err != nil {
		return nil, readError(ctx, err)
	}
	return checked(out.Item, at)
}

// checked returns an answered item that is the one that was asked for.
func checked(item map[string]types.AttributeValue, at itemKey) (map[string]types.AttributeValue, error) {
	if len(item) == 0 {
		return nil, nil //nolint:nilnil // no item is an answer
	}
	if keyOf(item) != at {
		return nil, errForeignItem()
	}
	return item, nil
}

// eventual reads the current item from DAX, or from the table with eventual
// consistency. What is older than this Backend knows is read again.
func (s *Store) eventual(ctx context.Context, id config.ID, at itemKey) (state, config.Source, error) {
	source := config.SourceUnknown
	var item map[string]types.AttributeValue
	var err error
	if s.dax != nil {
		if item, err = s.daxItem(ctx, at); err == nil {
			source = config.SourceDAX
		}
	}
	if source != config.SourceDAX {
		if item, err = s.item(ctx, id.Tenant, at, false); err != nil {
			return state{}, 0, err
		}
	}
	// A state that can not be read is read again too: the damage may be mended.
	if st, err := stateOf(item); err == nil && s.floors.allows(id, st) && st.damage == nil {
		return st, source, nil
	}
	began := s.floors.now()
	st, err := s.current(ctx, id, at)
	if err != nil {
		return state{}, 0, err
	}
	s.floors.read(id, st, began, false)
	return st, config.SourceUnknown, nil
}

// daxItem reads through DAX. Every failure of it means: ask the table.
func (s *Store) daxItem(ctx context.Context, at itemKey) (map[string]types.AttributeValue, error) {
	out, err := s.dax.GetItem(ctx, &dynamodb.GetItemInput{TableName: s.tableRef(), Key: at.attributes(), ConsistentRead: aws.Bool(false)})
	if err != nil {
		return nil, err
	}
	return checked(out.Item, at)
}

// version reads one version: from history, or the current item where another
// tool made it.
func (s *Store) version(ctx context.Context, id config.ID, at itemKey, version uint64) (config.Entry, error) {
	item, err := s.item(ctx, id.Tenant, historyKey(at, version), true)
	if err != nil {
		return config.Entry{}, err
	}
	if item != nil && !expired(item, s.ttlAttribute, s.now()) {
		e, err := historical(id, version, item)
		if err == nil && e.Deleted {
			return config.Entry{}, errNotFound()
		}
		return e, err
	}
	st, err := s.current(ctx, id, at)
	if err != nil {
		return config.Entry{}, err
	}
	if st.version != version {
		return config.Entry{}, errNotFound()
	}
	return st.entry(id)
}
