package server

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
)

// problemBase is where the README explains each type of problem.
const problemBase = "https://github.com/tagstore/tagstore/blob/main/services/order/README.md#"

// The types of problem. Each is a heading of the README.
const (
	typeInvalid       = "invalid-request"
	typeUnauthentic   = "unauthenticated"
	typeForbidden     = "forbidden"
	typeNotFound      = "not-found"
	typeMethod        = "method-not-allowed"
	typeKeyReused     = "idempotency-key-reused"
	typeTooLarge      = "body-too-large"
	typeMediaType     = "unsupported-media-type"
	typeRefused       = "order-refused"
	typeNotConfigured = "configuration-missing"
	typeNoConfig      = "configuration-unavailable"
	typeUnavailable   = "unavailable"
	typeOutcome       = "outcome-unknown"
	typeInternal      = "internal"
	typeClientClosed  = "client-closed-request"
)

// statusClientClosed is for the log: the client it would go to has left.
const statusClientClosed = 499

// retryAfter is the wait that a 503 asks for when nobody knows better.
const retryAfter = 2 * time.Second

// problem is an error of one request, as RFC 9457 section 3 has it.
type problem struct {
	Type   string      `json:"type"`
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Detail string      `json:"detail,omitempty"`
	Rule   orders.Rule `json:"rule,omitempty"`
	// Key and Version name the configuration value that decided. Version is
	// absent where there is no value.
	Key       string `json:"key,omitempty"`
	Version   uint64 `json:"version,omitempty"`
	RequestID string `json:"requestId,omitempty"`

	retryAfter time.Duration
	allow      string // for 405
	challenge  string // for 401 and 403 (RFC 6750 section 3)
	cause      error  // for errors.Is, and the log
}

func (p *problem) Error() string { return p.Type + ": " + p.Detail }

func (p *problem) Unwrap() error { return p.cause }

func newProblem(status int, name, title, detail string) *problem {
	return &problem{Type: problemBase + name, Title: title, Status: status, Detail: detail}
}

func invalidRequest(detail string) *problem {
	return newProblem(http.StatusBadRequest, typeInvalid, "The request is not valid", detail)
}

func notFound(detail string) *problem {
	return newProblem(http.StatusNotFound, typeNotFound, "There is no such thing", detail)
}

func forbidden(detail string) *problem {
	p := newProblem(http.StatusForbidden, typeForbidden, "The caller may not do this", detail)
	p.challenge = `Bearer error="insufficient_scope"`
	return p
}

func unavailable(name, detail string, wait time.Duration) *problem {
	p := newProblem(http.StatusServiceUnavailable, name, "Nothing was accepted, try again later", detail)
	if p.retryAfter = wait; wait <= 0 {
		p.retryAfter = retryAfter
	}
	return p
}

// problemOf says err to the client. What it does not know is an internal
// error, without a detail.
func problemOf(ctx context.Context, err error) *problem {
	var (
		known   *problem
		refusal *orders.Refusal
		missing *orders.ConfigUnavailable
		e       *config.Error
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &refusal):
		return refused(refusal)
	case errors.As(err, &missing):
		p := unavailable(typeNoConfig, "The configuration that decides an order can not be had: "+missing.Error()+".", missing.RetryAfter)
		p.Key, p.Version = missing.Key.String(), missing.Version
		return p
	case !errors.As(err, &e):
		return newProblem(http.StatusInternalServerError, typeInternal, "The service failed", "")
	}
	switch e.Code {
	case config.InvalidArgument:
		return invalidRequest(e.Message + ".")
	case config.Unauthenticated:
		p := newProblem(http.StatusUnauthorized, typeUnauthentic, "The caller is not known", e.Message+".")
		p.challenge = `Bearer error="invalid_token"`
		return p
	case config.PermissionDenied:
		return forbidden(e.Message + ".")
	case config.NotFound:
		return notFound("There is no such order.")
	case config.AlreadyExists:
		return newProblem(http.StatusConflict, typeKeyReused, "The Idempotency-Key was used before",
			"This Idempotency-Key was used before for another order. Use a new key for a new order.")
	case config.OutcomeUnknown:
		p := unavailable(typeOutcome, "The order may or may not have been stored. Send it again with the same Idempotency-Key, or list the orders.", 0)
		p.Title = "The outcome is not known"
		return p
	case config.Canceled, config.DeadlineExceeded:
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return newProblem(statusClientClosed, typeClientClosed, "The client went away", "")
		}
		return unavailable(typeUnavailable, "The request took too long.", 0)
	case config.Unavailable, config.ResourceExhausted, config.FailedPrecondition:
		return unavailable(typeUnavailable, "The service can not do this right now.", e.RetryAfter)
	default:
		return newProblem(http.StatusInternalServerError, typeInternal, "The service failed", "")
	}
}

func refused(r *orders.Refusal) *problem {
	name, title := typeRefused, "The order does not meet a rule"
	if r.Rule == orders.RuleConfigured {
		name, title = typeNotConfigured, "Orders are not configured"
	}
	p := newProblem(http.StatusUnprocessableEntity, name, title, r.Detail+".")
	p.Rule, p.Key, p.Version = r.Rule, r.Key.String(), r.Version
	return p
}

// write sends p. The request id goes into the body of every problem but 404,
// where two answers must not differ.
func (p *problem) write(w http.ResponseWriter, requestID string) {
	sent := *p
	if p.Status != http.StatusNotFound {
		sent.RequestID = requestID
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	w.WriteHeader(p.Status)
	// The struct always marshals, and a client that is gone needs no answer.
	_ = json.NewEncoder(w).Encode(sent)
}
