package driver_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/driver"
)

var testKey = bytes.Repeat([]byte{7}, driver.TokenKeySize)

func TestSealerRoundTrip(t *testing.T) {
	s := driver.NewSealer(testKey)
	for _, payload := range []string{"", "key", "\x00\xff", strings.Repeat("k", config.MaxKey)} {
		for _, scope := range [][]string{nil, {""}, {"list", "acme", "", "prefix/"}} {
			if got, err := s.Open(s.Seal(payload, scope...), scope...); err != nil || got != payload {
				t.Errorf("Open of what Seal(%.20q, %q) returned = %.20q, %v", payload, scope, got, err)
			}
		}
	}
}

// TestSealerScope checks that a token opens for its own scope and for none
// that only reads like it.
func TestSealerScope(t *testing.T) {
	s := driver.NewSealer(testKey)
	scopes := [][]string{
		nil,
		{""},
		{"", ""},
		{"a"},
		{"a", ""},
		{"", "a"},
		{"ab"},
		{"a", "b"},
		{"ab", ""},
		{"a", "b", ""},
		{"b", "a"},
		{"a,b"},
		{"a\x00b"},
		{"A", "b"},
		{"list", "acme", "order", ""},
		{"list", "acme", "", "order"},
		{"list", "acme-corp", "order", ""},
		{"history", "acme", "order", ""},
	}
	for _, sealed := range scopes {
		for _, opened := range scopes {
			_, err := s.Open(s.Seal("payload", sealed...), opened...)
			if same := strings.Join(sealed, "\n") == strings.Join(opened, "\n") && len(sealed) == len(opened); same != (err == nil) {
				t.Errorf("sealed for %q, opened for %q: error %v", sealed, opened, err)
			}
		}
	}
	// The payload does not run into the scope.
	if _, err := s.Open(s.Seal("b", "a"), "a", "b"); err == nil {
		t.Error("a payload counts as part of the scope")
	}
}

// TestSealerRemembers checks that a token that is made again is that of what it is
// made of now, whatever the caller did to the scope of the one before.
func TestSealerRemembers(t *testing.T) {
	s := driver.NewSealer(testKey)
	scope := []string{"a", "b"}
	first := s.Seal("payload", scope...)
	if again := s.Seal("payload", "a", "b"); again != first {
		t.Errorf("the same is sealed as %q, then as %q", first, again)
	}
	scope[1] = "c"
	other := s.Seal("payload", scope...)
	if _, err := s.Open(other, "a", "c"); err != nil || other == first {
		t.Errorf("Open of the other scope's: %v", err)
	}
	if _, err := s.Open(other, "a", "b"); err == nil {
		t.Error("a token opens for a scope that it is not of")
	}
}

func TestSealerRefuses(t *testing.T) {
	s := driver.NewSealer(testKey)
	token := s.Seal("payload", "scope")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	tampered := []string{
		"", "x", "AAAA", token + "A", token + "=", token + "\n", token[:5] + "\r\n" + token[5:], " " + token, token[:len(token)-1], token[1:], token + token,
		base64.RawURLEncoding.EncodeToString(raw[:16]), base64.RawURLEncoding.EncodeToString(raw[:15]), base64.StdEncoding.EncodeToString(raw),
		base64.RawURLEncoding.EncodeToString([]byte("payload")), strings.Repeat("A", 1<<20), "\xff\xfe", token + "\x00",
		driver.NewSealer(driver.NewTokenKey()).Seal("payload", "scope"),
	}
	for i := range raw { // each byte in turn
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		tampered = append(tampered, base64.RawURLEncoding.EncodeToString(changed))
	}
	for _, forged := range tampered {
		if forged == token {
			continue // a padding-free text encodes alike in both alphabets
		}
		if payload, err := s.Open(forged, "scope"); !errors.Is(err, config.InvalidArgument) || payload != "" {
			t.Errorf("Open(%.60q) = %q, %v, want code invalid_argument", forged, payload, err)
		}
	}
}

func TestSealerKey(t *testing.T) {
	key := bytes.Clone(testKey)
	s := driver.NewSealer(key)
	key[0]++ // the Sealer has its own
	token := s.Seal("payload")
	if got, err := driver.NewSealer(testKey).Open(token); err != nil || got != "payload" {
		t.Errorf("another Sealer with the same key: Open = %q, %v", got, err)
	}
	if _, err := driver.NewSealer(key).Open(token); err == nil {
		t.Error("a Sealer with another key opened the token")
	}
	if a, b := driver.NewTokenKey(), driver.NewTokenKey(); len(a) != driver.TokenKeySize || bytes.Equal(a, b) {
		t.Errorf("NewTokenKey returned %d bytes, twice the same: %t", len(a), bytes.Equal(a, b))
	}
	defer func() {
		if recover() == nil {
			t.Error("NewSealer took a key that is too short")
		}
	}()
	driver.NewSealer(testKey[1:])
}

// FuzzSealerOpen checks that no text but a sealed one opens.
func FuzzSealerOpen(f *testing.F) {
	s := driver.NewSealer(testKey)
	f.Add(s.Seal("payload", "scope"), "payload", "scope")
	f.Add(s.Seal("", ""), "", "")
	f.Add("AAAA", "k", "list")
	f.Fuzz(func(t *testing.T, token, payload, scope string) {
		if got, err := s.Open(token, scope); err == nil && s.Seal(got, scope) != token {
			t.Fatalf("Open(%q) = %q, and Seal makes another token of it", token, got)
		}
		if got, err := s.Open(s.Seal(payload, scope), scope); len(payload) < 4096 && (err != nil || got != payload) {
			t.Fatalf("Open of what Seal(%q) returned = %q, %v", payload, got, err)
		}
		if _, err := s.Open(s.Seal(payload, scope), scope+"x"); err == nil {
			t.Fatalf("a token for %q opened for another scope", scope)
		}
	})
}
