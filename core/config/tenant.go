package config

import (
	"fmt"
)

// MaxLabel is the longest Tenant or Service in bytes (the limit of a DNS
// label, RFC 1035 2.3.4, so that either can become part of a host name).
const MaxLabel = 63

// sharedID is spelt with a byte that no parsed tenant can hold.
const sharedID = "_shared"

// Tenant names one customer. Only ParseTenant and Shared make a valid one.
// Tenants are compared byte for byte: nothing is case-folded or normalised.
type Tenant struct{ id string }

// ParseTenant accepts 1 to 63 bytes of a-z, 0-9 and '-', neither first nor
// last of them '-'. It never accepts the reserved shared tenant, so a token
// or request can not name it. The error has code InvalidArgument.
func ParseTenant(s string) (Tenant, error) {
	if err := checkLabel("tenant", s); err != nil {
		return Tenant{}, err
	}
	return Tenant{id: s}, nil
}

// Shared is the reserved tenant that holds the layer which all tenants read
// and none of them can write. ParseTenant never returns it.
func Shared() Tenant { return Tenant{id: sharedID} }

// ParseOwner accepts what ParseTenant accepts and the shared tenant. It is for
// reading back what tagstore itself wrote (a stored key, the plugin protocol),
// never for text that a caller chose.
func ParseOwner(s string) (Tenant, error) {
	if s == sharedID {
		return Shared(), nil
	}
	return ParseTenant(s)
}

// String returns the tenant as it was parsed, "" for the zero value.
func (t Tenant) String() string { return t.id }

// IsZero reports whether t is the invalid zero value.
func (t Tenant) IsZero() bool { return t.id == "" }

// IsShared reports whether t is the reserved shared tenant.
func (t Tenant) IsShared() bool { return t.id == sharedID }

// Service is the optional second dimension of an ID: a service, a business
// unit or a region. The zero value means "the whole tenant" and is valid.
type Service struct{ id string }

// ParseService accepts "" (the whole tenant) and what ParseTenant accepts.
func ParseService(s string) (Service, error) {
	if s == "" {
		return Service{}, nil
	}
	if err := checkLabel("service", s); err != nil {
		return Service{}, err
	}
	return Service{id: s}, nil
}

// String returns the service as it was parsed, "" for the whole tenant.
func (s Service) String() string { return s.id }

// IsZero reports whether s means the whole tenant.
func (s Service) IsZero() bool { return s.id == "" }

func checkLabel(what, s string) error {
	switch {
	case s == "":
		return Errorf(InvalidArgument, "%s is empty", what).WithHint("use 1 to 63 of a-z, 0-9 and '-'")
	case len(s) > MaxLabel:
		return Errorf(InvalidArgument, "%s has %d bytes, the limit is %d", what, len(s), MaxLabel)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0 && i < len(s)-1:
		default:
			return Errorf(InvalidArgument, "%s has %s at byte %d", what, describeByte(c), i).
				WithHint("use 1 to 63 of a-z, 0-9 and '-', neither first nor last '-'")
		}
	}
	return nil
}

// describeByte shows one byte of hostile text without repeating the text.
func describeByte(c byte) string {
	if c > ' ' && c < 0x7f {
		return fmt.Sprintf("%q", c)
	}
	return fmt.Sprintf("byte 0x%02x", c)
}
