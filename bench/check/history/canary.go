package history

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"

	"github.com/tagstore/tagstore/core/config"
)

// Canary is what came of the check of one value.
type Canary uint8

// What a value can turn out to be.
const (
	// Unchecked: there was no value.
	Unchecked Canary = iota
	// Own: it is the value of exactly the ID and version that it came for.
	Own
	// OtherVersion: it is another version's value of the same ID.
	OtherVersion
	// OtherKey: it is a value of another key or service of the same tenant.
	OtherKey
	// OtherTenant: it is another tenant's value.
	OtherTenant
	// Forged: nobody in this run wrote it.
	Forged
)

// String says it in words.
func (c Canary) String() string {
	return [...]string{"unchecked", "its own", "another version's", "another key's", "another tenant's", "nobody's"}[c]
}

// Bad reports whether the value was not the one that it had to be.
func (c Canary) Bad() bool { return c > Own }

// Canaries makes the values of one run: each can be told from every other, and
// from whatever another run has left behind.
type Canaries struct{ key []byte }

// NewCanaries returns those of a new run.
func NewCanaries() Canaries { return Canaries{[]byte(rand.Text())} }

// bird is the form of a value. Everything but Mac is there to say whose it is.
type bird struct {
	Tenant  string `json:"tenant"`
	Service string `json:"service"`
	Key     string `json:"key"`
	Version uint64 `json:"version"`
	Mac     string `json:"mac"`
}

// Value returns the value that version of id has in this run.
func (c Canaries) Value(id config.ID, version uint64) []byte {
	b := bird{Tenant: id.Tenant.String(), Service: id.Service.String(), Key: id.Key.String(), Version: version, Mac: c.Mac(id, version)}
	value, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and a number
	}
	return value
}

// Mac is the part of a value that occurs nowhere else: what a search of logs
// for a value looks for.
func (c Canaries) Mac(id config.ID, version uint64) string {
	mac := hmac.New(sha256.New, c.key)
	mac.Write(binary.BigEndian.AppendUint64(nil, version))
	mac.Write([]byte(id.Encode()))
	return hex.EncodeToString(mac.Sum(nil))
}

// Check says whose the value is that came as this version of id.
func (c Canaries) Check(id config.ID, version uint64, value []byte) Canary {
	if bytes.Equal(value, c.Value(id, version)) {
		return Own
	}
	var b bird
	if json.Unmarshal(value, &b) != nil {
		return Forged
	}
	tenant, err1 := config.ParseTenant(b.Tenant)
	service, err2 := config.ParseService(b.Service)
	key, err3 := config.ParseKey(b.Key)
	whose := config.ID{Tenant: tenant, Service: service, Key: key}
	if err1 != nil || err2 != nil || err3 != nil || !bytes.Equal(value, c.Value(whose, b.Version)) {
		return Forged
	}
	switch {
	case tenant != id.Tenant:
		return OtherTenant
	case whose != id:
		return OtherKey
	}
	return OtherVersion
}
