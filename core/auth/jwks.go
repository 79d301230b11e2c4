package auth

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"math/big"
)

// The sizes of RSA modulus that are taken. RFC 7518, 3.3 asks for the lower
// one; above the upper one a verification is slow enough to be a weapon.
const (
	minModulusBits = 2048
	maxModulusBits = 8192
)

// keys are an issuer's public keys by key id. They are never changed, only
// replaced.
type keys map[string]*rsa.PublicKey

// parseJWKS returns the usable keys of a JWKS: RSA, of a size that is safe,
// for signatures, for RS256 if an algorithm is named, with a key id. Keys of
// other kinds are left out, as RFC 7517, 5 asks. A document without a usable
// key, or with two of the same id, is an error.
func parseJWKS(data []byte) (keys, error) {
	document, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	var items []json.RawMessage
	if err := json.Unmarshal(document.raw("keys"), &items); err != nil {
		return nil, errors.New("keys is not an array")
	}
	found := keys{}
	for _, item := range items {
		id, key, ok := parseJWK(item)
		if !ok {
			continue
		}
		if _, twice := found[id]; twice {
			return nil, errors.New("two keys have the same id")
		}
		found[id] = key
	}
	if len(found) == 0 {
		return nil, errors.New("no RSA signature key of 2048 bits or more")
	}
	return found, nil
}

func parseJWK(data []byte) (id string, key *rsa.PublicKey, ok bool) {
	jwk, err := parseObject(data)
	if err != nil {
		return "", nil, false
	}
	is := func(name, want string) bool {
		got, ok := jwk.text(name)
		return ok && got == want
	}
	// A key whose private part is published is everybody's.
	if !is("kty", "RSA") || (jwk.has("use") && !is("use", "sig")) || (jwk.has("alg") && !is("alg", "RS256")) || jwk.has("d") {
		return "", nil, false
	}
	if id, ok = jwk.text("kid"); !ok || id == "" || len(id) > maxKeyID {
		return "", nil, false
	}
	n, ok := jwk.integer("n")
	if !ok || n.BitLen() < minModulusBits || n.BitLen() > maxModulusBits || n.Bit(0) == 0 {
		return "", nil, false
	}
	e, ok := jwk.integer("e")
	if !ok || e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 {
		return "", nil, false
	}
	return id, &rsa.PublicKey{N: n, E: int(e.Int64())}, true
}

// integer returns the member if it is a Base64urlUInt (RFC 7518, 2).
func (o object) integer(name string) (*big.Int, bool) {
	text, ok := o.text(name)
	if !ok {
		return nil, false
	}
	data, err := canonical.DecodeString(text)
	if err != nil || len(data) == 0 {
		return nil, false
	}
	return new(big.Int).SetBytes(data), true
}
