package auth

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"
)

// modulus returns an odd number of so many bits, all of them set; whether it is
// a product of two primes is nothing that a verifier could see.
func modulus(bits uint) string {
	n := new(big.Int).Lsh(big.NewInt(1), bits)
	return canonical.EncodeToString(n.Sub(n, big.NewInt(1)).Bytes())
}

func TestJWKSTakesOnlySafeKeys(t *testing.T) {
	tests := []struct {
		name   string
		change map[string]any
		usable bool
	}{
		{"2048 bits", nil, true},
		{"2047 bits", map[string]any{"n": modulus(2047)}, false},
		{"8192 bits", map[string]any{"n": modulus(8192)}, true},
		{"8193 bits", map[string]any{"n": modulus(8193)}, false},
		{"even modulus", map[string]any{"n": canonical.EncodeToString(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())}, false},
		{"no modulus", map[string]any{"n": nil}, false},
		{"empty modulus", map[string]any{"n": ""}, false},
		{"exponent 3", map[string]any{"e": "Aw"}, true},
		{"exponent 1", map[string]any{"e": "AQ"}, false},
		{"even exponent", map[string]any{"e": "BA"}, false},
		{"exponent of 31 bits", map[string]any{"e": canonical.EncodeToString([]byte{0x7f, 0xff, 0xff, 0xff})}, true},
		{"exponent of 32 bits", map[string]any{"e": canonical.EncodeToString([]byte{0xff, 0xff, 0xff, 0xff})}, false},
		{"exponent of 65 bits", map[string]any{"e": canonical.EncodeToString([]byte{1, 0, 0, 0, 0, 0, 0, 0, 3})}, false},
		{"id of 128 bytes", map[string]any{"kid": strings.Repeat("k", 128)}, true},
		{"id of 129 bytes", map[string]any{"kid": strings.Repeat("k", 129)}, false},
		{"empty id", map[string]any{"kid": ""}, false},
		{"a member nobody reads", map[string]any{"x5t": "x"}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			jwk := map[string]any{"kty": "RSA", "kid": "k", "e": "AQAB", "n": modulus(2048)}
			for name, value := range test.change {
				jwk[name] = value
			}
			document, err := json.Marshal(map[string]any{"keys": []any{jwk}})
			if err != nil {
				t.Fatal(err)
			}
			if found, err := parseJWKS(document); (err == nil) != test.usable || (len(found) == 1) != test.usable {
				t.Errorf("got %d keys and %v, want usable %v", len(found), err, test.usable)
			}
		})
	}
}

// FuzzJWKS: whatever a JWKS URL answers, no key comes out of it that is too
// weak, too big or without an id.
func FuzzJWKS(f *testing.F) {
	f.Add(`{"keys":[{"kty":"RSA","kid":"a","use":"sig","alg":"RS256","e":"AQAB","n":"` + modulus(2048) + `"}]}`)
	f.Add(`{"keys":[{"kty":"RSA","kid":"a","e":"AQAB","n":"` + modulus(4096) + `"},{"kty":"EC","kid":"b"}]}`)
	f.Add(`{"keys":[{"kty":"RSA","kid":"a","e":"AQAB","n":"____"},null]}`)
	f.Add(`{"keys":[],"keys":[]}`)
	f.Add(`<html>`)
	f.Fuzz(func(t *testing.T, document string) {
		found, err := parseJWKS([]byte(document))
		if err != nil {
			if found != nil {
				t.Error("keys came with the error")
			}
			return
		}
		if len(found) == 0 {
			t.Error("no key and no error")
		}
		for id, key := range found {
			if id == "" || len(id) > maxKeyID {
				t.Errorf("a key with the id %q", id)
			}
			if bits := key.N.BitLen(); bits < minModulusBits || bits > maxModulusBits || key.E < 3 {
				t.Errorf("a key of %d bits with the exponent %d", bits, key.E)
			}
		}
	})
}
