package driver

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tagstore/tagstore/core/config"
)

// TokenKeySize is the least length of a Sealer's key in bytes.
const TokenKeySize = 32

// tokenMAC is how many bytes of HMAC-SHA-256 a token carries (RFC 2104
// section 5 allows truncation to half or more).
const tokenMAC = 16

// maxToken bounds what Open decodes; no payload here comes near it.
const maxToken = 8 << 10

// Sealer makes and reads the opaque tokens of clauses C9 and C26: a payload
// that the caller can carry about but neither change, nor make up, nor use
// outside the scope that it was issued for. The payload is authenticated, not
// hidden. A Sealer is safe for concurrent use.
type Sealer struct {
	key  []byte
	last [8]atomic.Pointer[sealed] // of what is sealed again and again
}

// sealed is a token that was made, and what of.
type sealed struct {
	payload, token string
	scope          []string
}

// NewSealer returns a Sealer with this key, of TokenKeySize bytes or more. Two
// Sealers with the same key read each other's tokens: a store that keeps its
// key hands out tokens that outlive its process.
func NewSealer(key []byte) *Sealer {
	if len(key) < TokenKeySize {
		panic("driver: token key is too short")
	}
	return &Sealer{key: append([]byte(nil), key...)}
}

// NewTokenKey returns a fresh random key for NewSealer.
func NewTokenKey() []byte {
	key := make([]byte, TokenKeySize)
	_, _ = rand.Read(key) // never fails: crypto/rand's documentation
	return key
}

// Seal returns a token for payload that only Open with the same scope reads.
// The scope is any list of strings that name what the token is for.
func (s *Sealer) Seal(payload string, scope ...string) string {
	// A thousand who watch the same are given the same token at the same moment.
	memory := &s.last[0]
	if payload != "" {
		memory = &s.last[int(payload[len(payload)-1])%len(s.last)]
	}
	if last := memory.Load(); last != nil && last.payload == payload && slices.Equal(last.scope, scope) {
		return last.token
	}
	raw := make([]byte, 0, tokenMAC+len(payload))
	raw = append(raw, s.mac(payload, scope)...)
	raw = append(raw, payload...)
	token := base64.RawURLEncoding.EncodeToString(raw)
	memory.Store(&sealed{strings.Clone(payload), token, slices.Clone(scope)})
	return token
}

// Open returns the payload that Seal got, or InvalidArgument for anything that
// Seal did not return for this scope.
func (s *Sealer) Open(token string, scope ...string) (string, error) {
	// The decoder skips line breaks, which would give a token many spellings.
	if len(token) > maxToken || strings.ContainsAny(token, "\r\n") {
		return "", badToken()
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < tokenMAC {
		return "", badToken()
	}
	payload := string(raw[tokenMAC:])
	if !hmac.Equal(raw[:tokenMAC], s.mac(payload, scope)) {
		return "", badToken()
	}
	return payload, nil
}

// mac covers the number of scope parts and the length of each part, so that no
// two scopes run together.
func (s *Sealer) mac(payload string, scope []string) []byte {
	h := hmac.New(sha256.New, s.key)
	var n [8]byte
	write := func(part string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	binary.BigEndian.PutUint64(n[:], uint64(len(scope)))
	h.Write(n[:])
	for _, part := range scope {
		write(part)
	}
	write(payload)
	return h.Sum(nil)[:tokenMAC]
}

func badToken() error {
	return config.Errorf(config.InvalidArgument, "the page or resume token is not one that was issued for this request").
		WithHint("start again without it")
}
