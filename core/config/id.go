package config

import (
	"strings"
)

// ID is the full identity of a value: whose it is, the optional second
// dimension, and the key. It is comparable and may be a map key.
type ID struct {
	Tenant  Tenant
	Service Service
	Key     Key
}

// IsZero reports whether the ID lacks a tenant or a key.
func (id ID) IsZero() bool { return id.Tenant.IsZero() || id.Key.IsZero() }

// Encode returns the one string form of an ID: each of tenant and service
// behind a byte that holds its length, then the key. It is injective (two
// different IDs never share it), whatever their bytes, and for one tenant and
// service it sorts as the keys do.
func (id ID) Encode() string {
	return EncodeScope(id.Tenant, id.Service) + id.Key.s
}

// EncodeScope is what the Encode of every ID of this tenant and service starts
// with, and of no other: a store may range over it.
func EncodeScope(t Tenant, s Service) string {
	var b strings.Builder
	b.Grow(2 + len(t.id) + len(s.id))
	b.WriteByte(byte(len(t.id)))
	b.WriteString(t.id)
	b.WriteByte(byte(len(s.id)))
	b.WriteString(s.id)
	return b.String()
}

// DecodeID reads what Encode wrote and refuses everything else with code
// DataLoss: such bytes come from a damaged store, not from a caller.
func DecodeID(s string) (ID, error) {
	tenant, rest, ok := cutLabel(s)
	if !ok {
		return ID{}, Errorf(DataLoss, "stored id is cut short")
	}
	service, key, ok := cutLabel(rest)
	if !ok {
		return ID{}, Errorf(DataLoss, "stored id is cut short")
	}
	return parseStored(tenant, service, key)
}

func parseStored(tenant, service, key string) (ID, error) {
	t, err := ParseOwner(tenant)
	if err != nil {
		return ID{}, Errorf(DataLoss, "stored id has no valid tenant")
	}
	s, err := ParseService(service)
	if err != nil {
		return ID{}, Errorf(DataLoss, "stored id has no valid service")
	}
	k, err := ParseKey(key)
	if err != nil {
		return ID{}, Errorf(DataLoss, "stored id has no valid key")
	}
	return ID{Tenant: t, Service: s, Key: k}, nil
}

func cutLabel(s string) (label, rest string, ok bool) {
	if s == "" {
		return "", "", false
	}
	n := int(s[0])
	if len(s) < 1+n {
		return "", "", false
	}
	return s[1 : 1+n], s[1+n:], true
}
