package auth

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"
)

func numbered(n int) verified {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	return verified{sum: sum, keyID: "k", key: new(rsa.PublicKey), principal: Principal{Expires: time.Unix(100, 0)}}
}

func always(string, *rsa.PublicKey) bool { return true }

func (s *seen) size() (n int) {
	for i := range s.shards {
		n += len(s.shards[i].young) + len(s.shards[i].old)
	}
	return n
}

func TestSeenIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	var s seen
	now := time.Unix(0, 0)
	used := numbered(-1)
	s.put(used)
	for n := range 10 * maxSeen {
		v := numbered(n)
		s.put(v)
		if _, ok := s.get(&v.sum, now, always); !ok {
			t.Fatalf("token %d is forgotten at once", n)
		}
		if n%100 == 0 {
			if _, ok := s.get(&used.sum, now, always); !ok {
				t.Fatalf("a token in use is forgotten after %d others", n)
			}
		}
	}
	if n := s.size(); n > maxSeen {
		t.Errorf("%d tokens are kept, the limit is %d", n, maxSeen)
	}
}

func TestSeenForgets(t *testing.T) {
	now := time.Unix(0, 0)
	v := numbered(1)
	tests := []struct {
		name string
		get  func(s *seen) (Principal, bool)
	}{
		{"expired", func(s *seen) (Principal, bool) { return s.get(&v.sum, v.principal.Expires, always) }},
		{"revoked", func(s *seen) (Principal, bool) {
			return s.get(&v.sum, now, func(string, *rsa.PublicKey) bool { return false })
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var s seen
			s.put(v)
			if _, ok := test.get(&s); ok {
				t.Error("still accepted")
			}
			if n := s.size(); n != 0 {
				t.Errorf("%d tokens are kept", n)
			}
		})
	}
}

// Two tokens whose digests share a slot are still two tokens.
func TestSeenComparesTheWholeDigest(t *testing.T) {
	var s seen
	v := numbered(1)
	s.put(v)
	for _, at := range []int{1, 7, 16, 31} {
		other := v.sum
		other[at] ^= 1
		if _, ok := s.get(&other, time.Unix(0, 0), always); ok {
			t.Errorf("a digest that differs in byte %d is taken for it", at)
		}
	}
}
