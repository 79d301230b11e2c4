package config_test

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
)

func TestEncode(t *testing.T) {
	for want, id := range map[string]config.ID{
		"\x04acme\x05orderlimit":  id("acme", "order", "limit"),
		"\x04acme\x00limit":       id("acme", "", "limit"),
		"\x04acme\x00order/limit": id("acme", "", "order/limit"),
		"\x07_shared\x00limit":    id("_shared", "", "limit"),
		"\x09acme-corp\x01ak":     id("acme-corp", "a", "k"),
		"\x01a\x01bb/c":           id("a", "b", "b/c"),
	} {
		if got := id.Encode(); got != want {
			t.Errorf("Encode of %+v = %q, want %q", id, got, want)
		}
		if back, err := config.DecodeID(want); err != nil || back != id {
			t.Errorf("DecodeID(%q) = %+v, %v, want %+v", want, back, err, id)
		}
	}
}

func TestDecodeIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "\x00", "\x04acme", "\x04acm", "\x05acme\x00k", "\x04acme\x00", "\x04acme\x05order", "\x04acme\x06orderk", "\x04Acme\x00k", "\x00\x00k",
		"\x04acme\x00..", "\x04acme\x00a//b", "\x04acme\x05Orderk", "\xff", "\x40" + strings.Repeat("a", 64) + "\x00k",
		"\x04acme\x07_sharedk", "\x04acme\x00" + strings.Repeat("k", config.MaxKey+1),
	} {
		if got, err := config.DecodeID(s); !errors.Is(err, config.DataLoss) || got != (config.ID{}) {
			t.Errorf("DecodeID(%.40q) = %+v, %v, want code data_loss", s, got, err)
		}
	}
}

func TestEncodeSortsAsKeys(t *testing.T) {
	var keys []string
	for _, a := range "-./09AZ_az" {
		for _, b := range "-.09AZ_az" {
			if key, err := config.ParseKey("k" + string(a) + string(b)); err == nil {
				keys = append(keys, key.String())
			}
		}
	}
	slices.Sort(keys)
	encoded := make([]string, len(keys))
	for i, key := range keys {
		encoded[i] = id("acme", "order", key).Encode()
	}
	if !slices.IsSorted(encoded) {
		t.Errorf("encoded IDs of one scope are not in order of their keys")
	}
}

// FuzzIDEncode checks that two IDs share an encoding, or the encoding of a
// scope, only if they are the same or of the same.
func FuzzIDEncode(f *testing.F) {
	f.Add("a", "b", "c", "a", "", "b/c")
	f.Add("acme", "", "order/limit", "acme", "order", "limit")
	f.Add("acme", "corp", "k", "acme-corp", "", "k")
	f.Add("a", "b", "b/c", "a", "b-b", "c")
	f.Add("1", "1", "1", "1", "", "1/1")
	f.Add("_shared", "", "k", "shared", "", "k")
	f.Add("acme", "", "K", "acme", "", "k")
	f.Add(strings.Repeat("a", 63), "b", "k", strings.Repeat("a", 62), "ab", "k")
	f.Fuzz(func(t *testing.T, t1, s1, k1, t2, s2, k2 string) {
		a, err1 := parse(t1, s1, k1)
		b, err2 := parse(t2, s2, k2)
		if err1 == nil {
			if back, err := config.DecodeID(a.Encode()); err != nil || back != a {
				t.Fatalf("DecodeID of Encode of %+v = %+v, %v", a, back, err)
			}
		}
		if err1 != nil || err2 != nil {
			return
		}
		if (a == b) != (a.Encode() == b.Encode()) {
			t.Fatalf("%+v and %+v: equal %t, encoded %q and %q", a, b, a == b, a.Encode(), b.Encode())
		}
		same := a.Tenant == b.Tenant && a.Service == b.Service
		if same != strings.HasPrefix(b.Encode(), config.EncodeScope(a.Tenant, a.Service)) {
			t.Fatalf("%+v and %+v: same scope %t, and the scope of the first says otherwise", a, b, same)
		}
		if same && cmp.Compare(k1, k2) != cmp.Compare(a.Encode(), b.Encode()) {
			t.Fatalf("%+v and %+v sort otherwise than their keys", a, b)
		}
	})
}

// FuzzDecodeID checks that only what Encode writes is read.
func FuzzDecodeID(f *testing.F) {
	for _, s := range []string{"\x04acme\x05orderlimit", "\x04acme\x00limit", "\x07_shared\x00k", "\x01a\x01bb/c", "", "\x00\x00\x00", "\xff\xff", "\x01a\x00.."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := config.DecodeID(s)
		switch {
		case err == nil && id.Encode() != s:
			t.Fatalf("DecodeID(%q) = %+v, which encodes as %q", s, id, id.Encode())
		case err == nil && id.IsZero():
			t.Fatalf("DecodeID(%q) is zero", s)
		case err != nil && !errors.Is(err, config.DataLoss):
			t.Fatalf("DecodeID(%q): got code %s, want data_loss", s, config.CodeOf(err))
		}
	})
}

// FuzzParseKey checks what a key may be, and that a prefix is accepted exactly
// if a key can begin with it.
func FuzzParseKey(f *testing.F) {
	for _, s := range append([]string{"a/b", "..a", "a/..b", "A.b_c-d/e", "param_config_.."}, hostile...) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := config.ParseKey(s)
		if want := validKey(s); (err == nil) != want {
			t.Fatalf("ParseKey(%q): error %v, want one: %t", s, err, !want)
		}
		if err == nil {
			if key.String() != s {
				t.Fatalf("ParseKey(%q) became %q", s, key)
			}
			for i := range len(s) + 1 {
				if _, err := config.ParseKeyPrefix(s[:i]); err != nil {
					t.Fatalf("ParseKeyPrefix(%q), which begins the key %q: %v", s[:i], s, err)
				}
			}
		}
		if prefix, err := config.ParseKeyPrefix(s); err == nil && len(s) < config.MaxKey {
			if prefix != s || !validKey(s+"x") {
				t.Fatalf("ParseKeyPrefix(%q) = %q, and no key begins so", s, prefix)
			}
		}
	})
}

// validKey is the rule for a key, written another way.
func validKey(s string) bool {
	if len(s) > config.MaxKey {
		return false
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		if strings.Trim(segment, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return false
		}
		for _, c := range []byte(segment) {
			if c > 0x7f || c <= ' ' || strings.IndexByte("!\"#$%&'()*+,:;<=>?@[\\]^`{|}~\x7f", c) >= 0 {
				return false
			}
		}
	}
	return true
}

func parse(tenant, service, key string) (config.ID, error) {
	t, err1 := config.ParseOwner(tenant)
	s, err2 := config.ParseService(service)
	k, err3 := config.ParseKey(key)
	return config.ID{Tenant: t, Service: s, Key: k}, errors.Join(err1, err2, err3)
}
