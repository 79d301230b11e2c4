package keypath

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// The parts of an item's keys. Neither '#' nor '|' is in a tenant, a service or
// a key, so two IDs never share an item.
const (
	tenantPart  = "TENANT#"
	servicePart = "|SERVICE#"
	currentPart = "CONFIG#"
	historyPart = "HISTORY#"
	oncePart    = "IDEM#"
)

// Items maps IDs to the keys of items in a table and back: a partition key that
// tenant and service share, and a sort key for each name,
//
//	TENANT#acme-corp|SERVICE#order   CONFIG#payment-gateway
//
// with the versions before the current one at HISTORY#payment-gateway#0000000002.
// SortKey and Partition together are injective, and ID is their exact inverse.
// The zero Items keeps the whole key in the sort key.
type Items struct {
	// KeyPrefix is what every key of the table starts with and no sort key has.
	KeyPrefix string
}

// Partition returns the partition key of everything of one tenant and service.
func Partition(t config.Tenant, s config.Service) string {
	if s.IsZero() {
		return tenantPart + t.String()
	}
	return tenantPart + t.String() + servicePart + s.String()
}

// ParsePartition is the exact inverse of Partition; false for every other text.
func ParsePartition(pk string) (config.Tenant, config.Service, bool) {
	owner, ok := strings.CutPrefix(pk, tenantPart)
	if !ok {
		return config.Tenant{}, config.Service{}, false
	}
	owner, of, hasService := strings.Cut(owner, servicePart)
	tenant, err := config.ParseOwner(owner)
	if err != nil || hasService && of == "" {
		return config.Tenant{}, config.Service{}, false
	}
	service, err := config.ParseService(of)
	if err != nil {
		return config.Tenant{}, config.Service{}, false
	}
	return tenant, service, true
}

// SortKey returns the sort key of an ID's current item. The error has code
// InvalidArgument: the key does not start with KeyPrefix, or has no name behind
// it.
func (m Items) SortKey(id config.ID) (string, error) {
	if id.IsZero() {
		return "", config.Errorf(config.InvalidArgument, "the request lacks a tenant or a key")
	}
	name, ok := strings.CutPrefix(id.Key.String(), m.KeyPrefix)
	if !ok {
		return "", config.Errorf(config.InvalidArgument, "the key does not begin with %q, as every key of this store does", m.KeyPrefix).
			WithHint("set the backend's key_prefix to the prefix of its route, or leave it out")
	}
	if m.KeyPrefix != "" {
		if err := config.CheckName(name); err != nil {
			return "", err
		}
	}
	return currentPart + name, nil
}

// ID is the exact inverse of Partition and SortKey; false for items that no key
// leads to.
func (m Items) ID(pk, sk string) (config.ID, bool) {
	tenant, service, ok := ParsePartition(pk)
	if !ok {
		return config.ID{}, false
	}
	return m.IDIn(tenant, service, sk)
}

// IDIn is ID for an item whose partition is known.
func (m Items) IDIn(t config.Tenant, s config.Service, sk string) (config.ID, bool) {
	name, ok := strings.CutPrefix(sk, currentPart)
	if !ok {
		return config.ID{}, false
	}
	key, err := config.ParseKey(m.KeyPrefix + name)
	if err != nil {
		return config.ID{}, false
	}
	id := config.ID{Tenant: t, Service: s, Key: key}
	again, err := m.SortKey(id)
	if err != nil || again != sk {
		return config.ID{}, false
	}
	return id, true
}

// SortKeyPrefix returns what the sort keys of a listing begin with; false where
// no key of this table begins with the prefix.
func (m Items) SortKeyPrefix(keyPrefix string) (string, bool) {
	if name, ok := strings.CutPrefix(keyPrefix, m.KeyPrefix); ok {
		return currentPart + name, true
	}
	return currentPart, strings.HasPrefix(m.KeyPrefix, keyPrefix)
}

// ItemKind says what an item is, by its sort key.
type ItemKind int

// The kinds of items.
const (
	// ItemOther is nothing of this model: what other tools keep in the table.
	ItemOther ItemKind = iota
	// ItemCurrent is a key's value as it is now.
	ItemCurrent
	// ItemHistory is a version of a key.
	ItemHistory
	// ItemOnce remembers an idempotency key.
	ItemOnce
)

// KindOf returns the kind of the item with this sort key.
func KindOf(sk string) ItemKind {
	for _, k := range []struct {
		part string
		kind ItemKind
	}{{currentPart, ItemCurrent}, {historyPart, ItemHistory}, {oncePart, ItemOnce}} {
		if strings.HasPrefix(sk, k.part) {
			return k.kind
		}
	}
	return ItemOther
}

// HistoryFolder is what the sort keys of the versions of the current item at sk
// begin with, and no other's.
func HistoryFolder(sk string) string {
	return historyPart + strings.TrimPrefix(sk, currentPart) + "#"
}

// shortVersions are those of ten digits. Larger ones have twenty behind a byte
// that sorts after every digit, so that the order of the texts is that of the
// numbers.
const (
	shortVersions = 9_999_999_999
	longVersion   = "~"
)

// AfterVersions sorts, behind a HistoryFolder, after every version.
const AfterVersions = longVersion + "~"

// PadVersion returns a version as it stands behind a HistoryFolder: texts sort
// as their numbers do.
func PadVersion(v uint64) string {
	if v <= shortVersions {
		return fmt.Sprintf("%010d", v)
	}
	return longVersion + fmt.Sprintf("%020d", v)
}

// VersionIn is the inverse of PadVersion behind a folder; false for sort keys
// that are no version's.
func VersionIn(folder, sk string) (uint64, bool) {
	padded, ok := strings.CutPrefix(sk, folder)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimPrefix(padded, longVersion), 10, 64)
	return v, err == nil && v > 0 && PadVersion(v) == padded
}

// OnceSortKey is the sort key of what is remembered of an idempotency key.
func OnceSortKey(idempotencyKey string) string {
	sum := sha256.Sum256([]byte(idempotencyKey))
	return oncePart + hex.EncodeToString(sum[:])
}
