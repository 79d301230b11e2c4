package dynamodbbackend

import (
	"math"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
)

// itemKey is the primary key of one item.
type itemKey struct{ pk, sk string }

func (k itemKey) attributes() map[string]types.AttributeValue {
	return map[string]types.AttributeValue{
		attrPK: &types.AttributeValueMemberS{Value: k.pk},
		attrSK: &types.AttributeValueMemberS{Value: k.sk},
	}
}

// keyOf returns the primary key that an item carries.
func keyOf(item map[string]types.AttributeValue) itemKey {
	return itemKey{text(item[attrPK]), text(item[attrSK])}
}

func text(a types.AttributeValue) string {
	if s, ok := a.(*types.AttributeValueMemberS); ok {
		return s.Value
	}
	return ""
}

// partition is where everything of one tenant and service lies.
func partition(t config.Tenant, s config.Service) string { return keypath.Partition(t, s) }

// keymap maps keys to names: what is left of a key behind the store's prefix.
// The shapes themselves are package keypath's, which others read as well.
type keymap struct{ prefix string }

func (m keymap) items() keypath.Items { return keypath.Items{KeyPrefix: m.prefix} }

// current returns the key of an ID's current item.
func (m keymap) current(id config.ID) (itemKey, error) {
	sk, err := m.items().SortKey(id)
	return itemKey{partition(id.Tenant, id.Service), sk}, err
}

// id is the inverse of current within a scope; false for items that no key
// leads to.
func (m keymap) id(t config.Tenant, s config.Service, sk string) (config.ID, bool) {
	return m.items().IDIn(t, s, sk)
}

// listed returns what the sort keys of a List begin with; false where no key of
// this store begins with the prefix.
func (m keymap) listed(keyPrefix string) (string, bool) { return m.items().SortKeyPrefix(keyPrefix) }

// historyFolder is what the sort keys of an ID's versions begin with.
func historyFolder(current itemKey) string { return keypath.HistoryFolder(current.sk) }

// historyKey returns the key of one version of the item at current.
func historyKey(current itemKey, version uint64) itemKey {
	return itemKey{current.pk, historyFolder(current) + keypath.PadVersion(version)}
}

// versionOf returns the version whose sort key behind a folder this is; false
// for sort keys that are no version's.
func versionOf(folder, sk string) (uint64, bool) { return keypath.VersionIn(folder, sk) }

// onceKey is the key of what is remembered of an idempotency key. It lies in
// the tenant's own partition, whatever the service, since the key is the
// tenant's.
func onceKey(t config.Tenant, idempotencyKey string) itemKey {
	return itemKey{partition(t, config.Service{}), keypath.OnceSortKey(idempotencyKey)}
}

// noVersion is a version that nothing can follow.
const noVersion = math.MaxUint64
