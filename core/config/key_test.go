package config_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
)

// hostile are texts that no identifier of any kind accepts.
var hostile = []string{
	"", " ", "a b", " a", "a ", "\t", "a\n", "a\r\n", "a\x00", "\x00", "a\x00b", "a\x7f", "\x1b[0m",
	"a#b", "a|b", "a:b", "a;b", "a,b", "a?b", "a*b", "a%2e", "%2e%2e", "a\\b", "..\\a", "a'b", `a"b`, "a`b", "$(a)", "${a}", "{tenant}", "<a>", "a&b",
	"a=b", "a+b", "a@b", "a!b", "a~b", "a^b", "(a)", "[a]", "é", "e\u0301", "ａ", "ä", "漢", "a\u00a0b", "a\u200bb", "\u202ea", "\u212a", "\u017f", "\xff", "a\xc3", "\xed\xa0\x80",
	"/", "//", "/a", "a/", "a//b", "../a", "a/..", "a/../b", "./a", "a/.", "a/./b", "..", ".", "a/b/..", "///",
}

func TestParseTenant(t *testing.T) {
	good := []string{"a", "0", "acme", "acme-corp", "a-b-c", "a--b", "123", "xn--bcher-kva", strings.Repeat("a", 63), "shared"}
	bad := append([]string{
		"Acme", "ACME", "-acme", "acme-", "-", "--", "a.b", "a_b", "_shared", "shared_", "a/b", strings.Repeat("a", 64), strings.Repeat("a", 1<<20),
	}, hostile...)
	for _, s := range good {
		tenant, err := config.ParseTenant(s)
		if err != nil || tenant.String() != s || tenant.IsZero() || tenant.IsShared() {
			t.Errorf("ParseTenant(%q) = %q, zero %t, shared %t, error %v", s, tenant, tenant.IsZero(), tenant.IsShared(), err)
		}
	}
	for _, s := range bad {
		tenant, err := config.ParseTenant(s)
		wantInvalid(t, "ParseTenant", s, err)
		if !tenant.IsZero() {
			t.Errorf("ParseTenant(%.40q) returned %q beside its error", s, tenant)
		}
	}
}

func TestParseOwner(t *testing.T) {
	shared, err := config.ParseOwner("_shared")
	if err != nil || shared != config.Shared() || !shared.IsShared() {
		t.Errorf("ParseOwner(_shared) = %q, %v, want the shared tenant", shared, err)
	}
	if tenant, err := config.ParseOwner("acme"); err != nil || tenant.String() != "acme" || tenant.IsShared() {
		t.Errorf("ParseOwner(acme) = %q, %v", tenant, err)
	}
	for _, s := range append([]string{"_Shared", "_shared ", "_share", "_", "__shared"}, hostile...) {
		_, err := config.ParseOwner(s)
		wantInvalid(t, "ParseOwner", s, err)
	}
}

func TestParseService(t *testing.T) {
	whole, err := config.ParseService("")
	if err != nil || !whole.IsZero() {
		t.Errorf("ParseService of nothing = %q, %v, want the whole tenant", whole, err)
	}
	if s, err := config.ParseService("order-2"); err != nil || s.String() != "order-2" || s.IsZero() {
		t.Errorf("ParseService(order-2) = %q, %v", s, err)
	}
	for _, s := range append([]string{"Order", "_shared", "order-", strings.Repeat("s", 64)}, hostile[1:]...) {
		_, err := config.ParseService(s)
		wantInvalid(t, "ParseService", s, err)
	}
}

func TestParseKey(t *testing.T) {
	good := []string{
		"a", "A", "0", ".a", "a.", "...", "a..b", "-", "_", "a/b", "a/b/c", "a/...", "tenant_config_payment-gateway", "param_config_..", "a.b/c_d/e-f",
		strings.Repeat("k", config.MaxKey), strings.Repeat("k/", config.MaxKey/2-1) + "kk",
	}
	for _, s := range good {
		key, err := config.ParseKey(s)
		if err != nil || key.String() != s || key.IsZero() {
			t.Errorf("ParseKey(%.60q) = %.60q, %v", s, key, err)
		}
	}
	for _, s := range append([]string{strings.Repeat("k", config.MaxKey+1), strings.Repeat("k", 1<<20)}, hostile...) {
		key, err := config.ParseKey(s)
		wantInvalid(t, "ParseKey", s, err)
		if !key.IsZero() {
			t.Errorf("ParseKey(%.40q) returned %q beside its error", s, key)
		}
	}
}

func TestKeyKeepsItsCase(t *testing.T) {
	upper, lower := must(config.ParseKey("Tenant_Config_X")), must(config.ParseKey("tenant_config_x"))
	if upper == lower || upper.String() != "Tenant_Config_X" {
		t.Errorf("%q and %q are one key", upper, lower)
	}
}

func TestCheckName(t *testing.T) {
	for _, s := range []string{"a", "payment-gateway", "a/b", "..a", "a."} {
		if err := config.CheckName(s); err != nil {
			t.Errorf("CheckName(%q): %v", s, err)
		}
	}
	for _, s := range hostile {
		wantInvalid(t, "CheckName", s, config.CheckName(s))
	}
}

func TestParseKeyPrefix(t *testing.T) {
	for _, s := range []string{
		"", "a", "a/", "a/b", "a/b/", ".", "..", "a.", "a/.", "a/..", "tenant_config_", "-", strings.Repeat("k", config.MaxKey),
	} {
		if got, err := config.ParseKeyPrefix(s); err != nil || got != s {
			t.Errorf("ParseKeyPrefix(%.40q) = %.40q, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"/", "//", "/a", "a//", "a//b", "./", "../", "a/./", "a/../", "a/../b", "./a", "a b", "a#", "a|", "a\x00", "é", "a/é", "é/a", " ", "*", "a*",
		strings.Repeat("k", config.MaxKey+1),
	} {
		_, err := config.ParseKeyPrefix(s)
		wantInvalid(t, "ParseKeyPrefix", s, err)
	}
}

// TestErrorsDoNotRepeatHostileText checks that a refusal names the byte and
// not the text, which may be anything of any length.
func TestErrorsDoNotRepeatHostileText(t *testing.T) {
	const text = "secret-looking-text\x00\x1b[31m"
	_, tenantErr := config.ParseTenant(text)
	_, serviceErr := config.ParseService(text)
	_, keyErr := config.ParseKey(text)
	_, prefixErr := config.ParseKeyPrefix(text)
	for name, err := range map[string]error{"tenant": tenantErr, "service": serviceErr, "key": keyErr, "prefix": prefixErr} {
		if err == nil || strings.Contains(err.Error(), "secret-looking") || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%s: the error is %q", name, err)
		}
	}
}

func TestZeroValues(t *testing.T) {
	if !(config.Tenant{}).IsZero() || !(config.Key{}).IsZero() || !(config.Service{}).IsZero() || !(config.ID{}).IsZero() {
		t.Error("a zero value does not say that it is zero")
	}
	whole := id("acme", "", "k")
	if whole.IsZero() {
		t.Error("an ID of the whole tenant says that it is zero")
	}
	for _, id := range []config.ID{{Tenant: whole.Tenant}, {Key: whole.Key}} {
		if !id.IsZero() {
			t.Errorf("%+v does not say that it is zero", id)
		}
	}
	if s := (config.Key{}).String() + (config.Tenant{}).String() + (config.Service{}).String(); s != "" {
		t.Errorf("zero values print %q", s)
	}
}

func wantInvalid(t *testing.T, parse, s string, err error) {
	t.Helper()
	if !errors.Is(err, config.InvalidArgument) {
		t.Errorf("%s(%.40q): got error %v, want code invalid_argument", parse, s, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func id(tenant, service, key string) config.ID {
	return config.ID{Tenant: must(config.ParseOwner(tenant)), Service: must(config.ParseService(service)), Key: must(config.ParseKey(key))}
}
