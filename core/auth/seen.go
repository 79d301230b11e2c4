package auth

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"time"
)

const (
	// maxSeen is the most verified tokens that are remembered.
	maxSeen    = 10_000
	seenShards = 16
	// Each shard holds two generations.
	maxGeneration = maxSeen / seenShards / 2
)

// digest identifies a token. Tokens themselves are not kept.
type digest [sha256.Size]byte

// sumOf returns the digest of a token. Those of a usual length cost no
// allocation.
func sumOf(token string) digest {
	var usual [2 << 10]byte
	return sha256.Sum256(append(usual[:0], token...))
}

// verified is a token that was accepted, and the key that it was accepted by.
type verified struct {
	sum       digest
	keyID     string
	key       *rsa.PublicKey
	principal Principal
}

// seen remembers verified tokens, so that a token's signature is checked once
// and not with every call. Refused tokens are never remembered, so nobody
// without a valid token can fill it.
type seen struct {
	shards [seenShards]seenShard
}

// seenShard keeps its tokens in two generations: when the young one is full it
// becomes the old one, and what was in the old one and not asked for since is
// forgotten.
type seenShard struct {
	mu         sync.RWMutex
	young, old map[uint64]verified
}

func (s *seen) shard(sum *digest) (*seenShard, uint64) {
	return &s.shards[sum[0]%seenShards], binary.LittleEndian.Uint64(sum[8:])
}

// get returns the principal of a token that was verified before, if that still
// holds: now is before its exp and its key is the one that isCurrent.
func (s *seen) get(sum *digest, now time.Time, isCurrent func(id string, key *rsa.PublicKey) bool) (Principal, bool) {
	shard, slot := s.shard(sum)
	shard.mu.RLock()
	v, young := shard.young[slot]
	found := young
	if !young {
		v, found = shard.old[slot]
	}
	shard.mu.RUnlock()
	if !found || subtle.ConstantTimeCompare(v.sum[:], sum[:]) != 1 {
		return Principal{}, false
	}
	if !now.Before(v.principal.Expires) || !isCurrent(v.keyID, v.key) {
		shard.mu.Lock()
		delete(shard.young, slot)
		delete(shard.old, slot)
		shard.mu.Unlock()
		return Principal{}, false
	}
	if !young {
		s.put(v)
	}
	return v.principal, true
}

func (s *seen) put(v verified) {
	shard, slot := s.shard(&v.sum)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if len(shard.young) >= maxGeneration || shard.young == nil {
		shard.old, shard.young = shard.young, make(map[uint64]verified, maxGeneration)
	}
	shard.young[slot] = v
}
