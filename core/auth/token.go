package auth

import (
	"encoding/base64"
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// MaxToken is the longest token in bytes that is looked into.
	MaxToken = 8 << 10
	// maxKeyID is the longest key id, in a token and in a JWKS.
	maxKeyID = 128
)

// canonical refuses padding and stray bits in the last character, so that one
// token has one spelling.
var canonical = base64.RawURLEncoding.Strict()

// token is a JWT taken apart; nothing of it is verified yet.
type token struct {
	keyID     string
	typ       string // "" if the header has none
	claims    object
	signed    string // what the signature is over
	signature []byte
}

// claimsRead are the claims that decide something here. One that differs from
// them in case only was meant to be taken for them.
var claimsRead = []string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "token_use", "client_id", "scope",
	"username", "cognito:username", "cognito:groups", "custom:tenantId", "custom:role",
}

func unauthenticated(message string) *config.Error {
	return &config.Error{Op: "auth.Verify", Code: config.Unauthenticated, Message: message, Hint: "get a new token from the issuer"}
}

func denied(message, hint string) *config.Error {
	return &config.Error{Op: "auth.Verify", Code: config.PermissionDenied, Message: message, Hint: hint}
}

func tooLong() *config.Error { return unauthenticated("the token is too long") }

// checkShape judges a token's size and alphabet without allocating.
func checkShape(text string) error {
	if len(text) > MaxToken {
		return tooLong()
	}
	dots := 0
	for i := range len(text) {
		c := text[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.':
			dots++
		default:
			return unauthenticated("the token has a character that no token has")
		}
	}
	if dots != 2 {
		return unauthenticated("the token has not three parts")
	}
	return nil
}

// parseToken takes apart a token that passed checkShape.
func parseToken(text string) (token, error) {
	lastDot := strings.LastIndexByte(text, '.')
	head, body, _ := strings.Cut(text[:lastDot], ".")
	t := token{signed: text[:lastDot]}

	header, err := decodeObject(head)
	if err != nil {
		return token{}, unauthenticated("the token's header can not be read")
	}
	if err := t.readHeader(header); err != nil {
		return token{}, err
	}
	if t.claims, err = decodeObject(body); err != nil || t.claims.hasMisspelt(claimsRead) {
		return token{}, unauthenticated("the token's claims can not be read")
	}
	if t.signature, err = canonical.DecodeString(text[lastDot+1:]); err != nil || len(t.signature) == 0 {
		return token{}, unauthenticated("the token's signature can not be read")
	}
	return t, nil
}

func decodeObject(part string) (object, error) {
	data, err := canonical.DecodeString(part)
	if err != nil {
		return nil, err
	}
	return parseObject(data)
}

func (t *token) readHeader(header object) error {
	for name := range header {
		switch name {
		case "alg", "kid", "typ":
		default:
			return unauthenticated("the token's header has a member that is not taken here")
		}
	}
	if alg, ok := header.text("alg"); !ok || alg != "RS256" {
		return unauthenticated("the token is not signed with RS256")
	}
	var ok bool
	if t.keyID, ok = header.text("kid"); !ok || t.keyID == "" || len(t.keyID) > maxKeyID {
		return unauthenticated("the token does not name its key")
	}
	if header.has("typ") {
		if t.typ, ok = header.text("typ"); !ok || t.typ == "" {
			return unauthenticated("the token is of another type")
		}
	}
	return nil
}
