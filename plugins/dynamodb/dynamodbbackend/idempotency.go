package dynamodbbackend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// requestDigest covers everything that a write asks for.
func requestDigest(w *write, value []byte) []byte {
	h := sha256.New()
	var n [8]byte
	field := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	version, set := w.expect.Value()
	field(strconv.AppendBool(nil, w.deleted))
	field([]byte(w.id.Encode()))
	field(strconv.AppendBool(nil, set))
	field(strconv.AppendUint(nil, version, 10))
	field([]byte(w.contentType))
	field([]byte(w.updatedBy))
	field([]byte(w.message))
	field(value)
	return h.Sum(nil)
}

// rememberOnce is the memory of a write's idempotency key. It is made in the
// write's own transaction, so that it is there exactly if the write is; and only
// if the key is not remembered yet.
func (s *Store) rememberOnce(w *write, tx *transaction) *types.Put {
	now := s.now()
	expires := now.Add(s.idempotencyWindow)
	item := onceKey(w.id.Tenant, w.idempotency).attributes()
	item[onceDigest] = binaryOf(w.digest)
	item[onceExpires] = number(uint64(expires.UnixMilli()))
	item[attrVersion] = number(tx.next)
	item[attrUpdated] = str(formatTime(tx.now))
	item[attrOwn] = &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{ownRevision: str(string(w.revision))}}
	item[s.ttlAttribute] = number(uint64(expires.Add(time.Second).Unix()))
	x := newExpression()
	condition := "attribute_not_exists(" + x.path(attrPK) + ") OR " + x.path(onceExpires) + " <= " + x.value("now", number(uint64(now.UnixMilli())))
	return &types.Put{
		TableName: s.tableRef(), Item: item,
		ConditionExpression:      aws.String(condition),
		ExpressionAttributeNames: x.names, ExpressionAttributeValues: x.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}

// replay returns the result of the first write under an idempotency key, or
// refuses the second because it asks for something else.
func (s *Store) replay(w *write, item map[string]types.AttributeValue) (config.Entry, error) {
	at := onceKey(w.id.Tenant, w.idempotency)
	item, err := checked(item, at)
	if err != nil {
		return config.Entry{}, err
	}
	version, err := versionAttribute(item[attrVersion])
	own, ok := item[attrOwn].(*types.AttributeValueMemberM)
	digest := blob(item[onceDigest])
	switch {
	case err != nil, !ok, version == 0, len(digest) == 0:
		return config.Entry{}, config.Errorf(config.DataLoss, "what was remembered of the idempotency key can not be read").
			WithHint("use a new idempotency key, after a look at whether the write was made")
	case !bytes.Equal(digest, w.digest):
		return config.Entry{}, config.Errorf(config.AlreadyExists, "the idempotency key was used for another write").
			WithHint("use a new key for each write, and the same one only to retry it")
	}
	return w.entry(version, config.Revision(text(own.Value[ownRevision])), parseTime(item[attrUpdated])), nil
}

// remembered returns the result of the first write under an idempotency key,
// and refused where there was none.
func (s *Store) remembered(ctx context.Context, w *write, refused error) (config.Entry, error) {
	item, err := s.item(ctx, w.id.Tenant, onceKey(w.id.Tenant, w.idempotency), true)
	if err != nil {
		return config.Entry{}, err
	}
	if item == nil {
		return config.Entry{}, refused
	}
	if n, ok := item[onceExpires].(*types.AttributeValueMemberN); ok {
		if expires, err := strconv.ParseInt(n.Value, 10, 64); err == nil && expires <= s.now().UnixMilli() {
			return config.Entry{}, refused
		}
	}
	return s.replay(w, item)
}
