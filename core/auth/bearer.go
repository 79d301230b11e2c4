package auth

import (
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// BearerToken takes the token out of the values of a request's authorization
// header or metadata. There must be exactly one value, the scheme "Bearer" in
// any case (RFC 9110, 11.1), one space and a token (RFC 6750, 2.1); everything
// else is Unauthenticated. The token itself is not looked into.
func BearerToken(values []string) (string, error) {
	const hint = "send one header: authorization: Bearer <token>"
	refuse := func(message string) (string, error) {
		return "", &config.Error{Op: "auth.BearerToken", Code: config.Unauthenticated, Message: message, Hint: hint}
	}
	switch len(values) {
	case 0:
		return refuse("the request has no authorization")
	case 1:
	default:
		return refuse("the request has more than one authorization")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	switch {
	case !ok || !strings.EqualFold(scheme, "Bearer"):
		return refuse("the authorization has not the form of a bearer token")
	case token == "":
		return refuse("the authorization has no token")
	case strings.ContainsAny(token, " ,\t"):
		return refuse("the authorization has more than a token")
	}
	return token, nil
}
