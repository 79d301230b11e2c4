package dynamodbbackend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

// The parts of the keys. Neither '#' nor '|' is in a tenant, a service or a
// key, so two IDs never share an item.
const (
	tenantPart  = "TENANT#"
	servicePart = "|SERVICE#"
	currentPart = "CONFIG#"
	historyPart = "HISTORY#"
	oncePart    = "IDEM#"
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
func partition(t config.Tenant, s config.Service) string {
	if s.IsZero() {
		return tenantPart + t.String()
	}
	return tenantPart + t.String() + servicePart + s.String()
}

// keymap maps keys to names: what is left of a key behind the store's prefix.
type keymap struct{ prefix string }

func (m keymap) name(id config.ID) (string, error) {
	if id.IsZero() {
		return "", config.Errorf(config.InvalidArgument, "the request lacks a tenant or a key")
	}
	name, ok := strings.CutPrefix(id.Key.String(), m.prefix)
	if !ok {
		return "", config.Errorf(config.InvalidArgument, "the key does not begin with %q, as every key of this store does", m.prefix).
			WithHint("set the backend's key_prefix to the prefix of its route, or leave it out")
	}
	if m.prefix == "" {
		return name, nil
	}
	return name, config.CheckName(name)
}

// current returns the key of an ID's current item.
func (m keymap) current(id config.ID) (itemKey, error) {
	name, err := m.name(id)
	return itemKey{partition(id.Tenant, id.Service), currentPart + name}, err
}

// id is the inverse of current within a scope; false for items that no key
// leads to.
func (m keymap) id(t config.Tenant, s config.Service, sk string) (config.ID, bool) {
	name, ok := strings.CutPrefix(sk, currentPart)
	if !ok {
		return config.ID{}, false
	}
	key, err := config.ParseKey(m.prefix + name)
	if err != nil {
		return config.ID{}, false
	}
	id := config.ID{Tenant: t, Service: s, Key: key}
	again, err := m.current(id)
	return id, err == nil && again.sk == sk
}

// listed returns what the sort keys of a List begin with; false where no key of
// this store begins with the prefix.
func (m keymap) listed(keyPrefix string) (string, bool) {
	if name, ok := strings.CutPrefix(keyPrefix, m.prefix); ok {
		return currentPart + name, true
	}
	return currentPart, strings.HasPrefix(m.prefix, keyPrefix)
}

// historyFolder is what the sort keys of an ID's versions begin with.
func historyFolder(current itemKey) string {
	return historyPart + strings.TrimPrefix(current.sk, currentPart) + "#"
}

// historyKey returns the key of one version of the item at current.
func historyKey(current itemKey, version uint64) itemKey {
	return itemKey{current.pk, historyFolder(current) + padVersion(version)}
}

// shortVersions are those of ten digits. Larger ones have twenty behind a byte
// that sorts after every digit, so that the order of the texts is that of the
// numbers.
const (
	shortVersions = 9_999_999_999
	longVersion   = "~"
)

func padVersion(v uint64) string {
	if v <= shortVersions {
		return fmt.Sprintf("%010d", v)
	}
	return longVersion + fmt.Sprintf("%020d", v)
}

// versionOf is the inverse of padVersion behind a folder; false for sort keys
// that are no version's.
func versionOf(folder, sk string) (uint64, bool) {
	padded, ok := strings.CutPrefix(sk, folder)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(padded, longVersion), 10, 64)
	return v, err == nil && v > 0 && padVersion(v) == padded
}

// onceKey is the key of what is remembered of an idempotency key. It lies in
// the tenant's own partition, whatever the service, since the key is the
// tenant's.
func onceKey(t config.Tenant, idempotencyKey string) itemKey {
	sum := sha256.Sum256([]byte(idempotencyKey))
	return itemKey{partition(t, config.Service{}), oncePart + hex.EncodeToString(sum[:])}
}

// noVersion is a version that nothing can follow.
const noVersion = math.MaxUint64
