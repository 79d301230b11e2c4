package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

// CursorKeySize is the least length of the key that seals cursors, in bytes.
const CursorKeySize = 32

// cursors makes and reads the cursors of a list: the last order's id behind an
// HMAC-SHA-256 that also covers the tenant. A client can neither make one up
// nor use one with another tenant's token.
type cursors struct{ key []byte }

func (c cursors) seal(tenant config.Tenant, id orders.ID) string {
	return base64.RawURLEncoding.EncodeToString(append(c.mac(tenant, id), id.String()...))
}

func (c cursors) open(tenant config.Tenant, cursor string) (orders.ID, error) {
	refused := invalidRequest("The cursor is not one that this list gave out. Start again without it.")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) <= sha256.Size {
		return orders.ID{}, refused
	}
	id, ok := orders.ParseID(string(raw[sha256.Size:]))
	if !ok || !hmac.Equal(raw[:sha256.Size], c.mac(tenant, id)) {
		return orders.ID{}, refused
	}
	return id, nil
}

// mac covers the tenant with its length, so that tenant and id can not be
// parted in another place.
func (c cursors) mac(tenant config.Tenant, id orders.ID) []byte {
	h := hmac.New(sha256.New, c.key)
	h.Write([]byte("orders cursor\x00" + config.EncodeScope(tenant, config.Service{}) + id.String()))
	return h.Sum(nil)
}
