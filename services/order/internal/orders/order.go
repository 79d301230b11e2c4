package orders

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tagstore/tagstore/core/config"
)

// The bounds of an order, whatever the tenant's own limits are.
const (
	// MaxAmount is the largest amount of money and the largest quantity: the
	// largest integer that every JSON reader takes exactly (RFC 8259 section 6).
	MaxAmount = 1<<53 - 1
	// MaxLines is the most lines that one order has.
	MaxLines = 1000
	// MaxSKU and MaxReference are in bytes.
	MaxSKU       = 64
	MaxReference = 128
)

// Line is some units of one article at one price.
type Line struct {
	SKU       string
	Quantity  int64
	UnitPrice int64 // minor units
}

// Draft is what a buyer asks for. NewDraft makes valid ones only.
type Draft struct {
	lines     []Line
	currency  string
	reference string
	total     int64
	units     int64
}

// NewDraft checks what a buyer asks for. The currency may be "" (the
// configured one) and so may the reference, which is the buyer's own note.
// Errors have code InvalidArgument and name the field.
func NewDraft(lines []Line, currency, reference string) (Draft, error) {
	d := Draft{lines: lines, currency: currency, reference: reference}
	if len(lines) == 0 {
		return Draft{}, invalid("items must have at least 1 element")
	}
	if len(lines) > MaxLines {
		return Draft{}, invalid("items has more than %d elements", MaxLines)
	}
	for i, l := range lines {
		switch {
		case !validSKU(l.SKU):
			return Draft{}, invalid("items[%d].sku must be 1 to %d of A-Z, a-z, 0-9, '.', '_' and '-'", i, MaxSKU)
		case l.Quantity < 1 || l.Quantity > MaxAmount:
			return Draft{}, invalid("items[%d].quantity must be from 1 to %d", i, MaxAmount)
		case l.UnitPrice < 0 || l.UnitPrice > MaxAmount:
			return Draft{}, invalid("items[%d].unitPrice must be from 0 to %d minor units", i, MaxAmount)
		}
		var fits bool
		if d.total, fits = add(d.total, l.Amount()); !fits {
			return Draft{}, invalid("the total is above %d minor units", MaxAmount)
		}
		if d.units, fits = add(d.units, l.Quantity); !fits {
			return Draft{}, invalid("the quantities add up to more than %d", MaxAmount)
		}
	}
	if currency != "" && !validCurrency(currency) {
		return Draft{}, invalid("currency must be 3 capital letters (ISO 4217)")
	}
	if !validReference(reference) {
		return Draft{}, invalid("reference must be at most %d bytes of printable text", MaxReference)
	}
	return d, nil
}

// Amount is quantity times unit price, or MaxAmount+1 where it is above
// MaxAmount.
func (l Line) Amount() int64 {
	high, low := bits.Mul64(uint64(l.Quantity), uint64(l.UnitPrice))
	if high != 0 || low > MaxAmount {
		return MaxAmount + 1
	}
	return int64(low)
}

// add takes two numbers from 0 to MaxAmount+1, so the sum fits 64 bits.
func add(a, b int64) (sum int64, fits bool) {
	sum = a + b
	return sum, sum <= MaxAmount
}

// fingerprint is the same for two drafts that ask for the same and, as far as
// SHA-256 goes, for no others.
func (d Draft) fingerprint() [sha256.Size]byte {
	// Strings, integers and structs of them always marshal.
	text, _ := json.Marshal(struct {
		Lines               []Line
		Currency, Reference string
	}{d.lines, d.currency, d.reference})
	return sha256.Sum256(text)
}

func validSKU(s string) bool {
	if s == "" || len(s) > MaxSKU {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// validReference also refuses U+FFFD, which is what a broken escape sequence
// in JSON has become by now.
func validReference(s string) bool {
	return len(s) <= MaxReference && strings.IndexFunc(s, func(c rune) bool {
		return !unicode.IsPrint(c) || c == utf8.RuneError
	}) < 0
}

func invalid(format string, args ...any) error {
	return config.Errorf(config.InvalidArgument, format, args...)
}

// Order is a draft that was accepted.
type Order struct {
	ID        ID
	Tenant    config.Tenant
	CreatedAt time.Time // UTC, to the millisecond
	CreatedBy string    // the subject of the buyer's token
	Lines     []Line
	Total     int64 // minor units
	Currency  Currency
	Reference string
	Gateway   Gateway
	// Decisions are the values that the order was decided by, in the order of
	// Keys.
	Decisions []Decision
}

// Decision names one version of one configuration value.
type Decision struct {
	Key     config.Key
	Layer   Layer
	Version uint64 // 0 where its store does not count
}

// Layer says how wide the value's layer is.
type Layer string

// The layers, most specific first.
const (
	LayerService Layer = "service"
	LayerTenant  Layer = "tenant"
	LayerShared  Layer = "shared"
)

// ID names an order: 26 characters of 0-9 and a-v. The first 48 bits are the
// time in milliseconds, so that IDs sort as their orders were made; the other
// 80 are random, so that none can be guessed.
type ID struct{ s string }

const idSize = 26

// base32's "extended hex" alphabet is in ASCII order (RFC 4648 section 7).
var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewID returns a fresh ID of this time.
func NewID(at time.Time) ID {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand's documentation
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli())<<16)
	copy(raw[:6], ms[:6])
	return ID{s: idEncoding.EncodeToString(raw[:])}
}

// ParseID returns false for text that NewID can not have made. Each ID has
// exactly one text.
func ParseID(s string) (ID, bool) {
	if len(s) != idSize {
		return ID{}, false
	}
	raw, err := idEncoding.DecodeString(s)
	if err != nil || idEncoding.EncodeToString(raw) != s {
		return ID{}, false
	}
	return ID{s: s}, true
}

// String returns the ID's text, "" for the zero ID.
func (id ID) String() string { return id.s }

// IsZero reports whether id is the zero ID, which names nothing.
func (id ID) IsZero() bool { return id.s == "" }
