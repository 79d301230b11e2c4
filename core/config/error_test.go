package config_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
)

// TestCodes pins the numbers, which are on the wire, and the names, which
// scripts match.
func TestCodes(t *testing.T) {
	want := []string{
		"unknown", "not_found", "invalid_argument", "conflict", "already_exists", "permission_denied", "unauthenticated", "resource_exhausted",
		"failed_precondition", "out_of_range", "unimplemented", "internal", "unavailable", "outcome_unknown", "data_loss", "canceled", "deadline_exceeded",
	}
	codes := config.Codes()
	if len(codes) != len(want) {
		t.Fatalf("there are %d codes, want %d", len(codes), len(want))
	}
	snake := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for i, c := range codes {
		if int(c) != i || c.String() != want[i] || !snake.MatchString(c.String()) {
			t.Errorf("code %d is number %d and called %q, want %q", i, c, c.String(), want[i])
		}
	}
	if got := config.Code(200).String(); got != "code(200)" {
		t.Errorf("a code of no name prints %q", got)
	}
	if got := config.OutcomeUnknown.Error(); got != "outcome unknown" {
		t.Errorf("as an error, a code reads %q", got)
	}
}

// TestIsAndCodeOf checks every code, plain and wrapped in every way.
func TestIsAndCodeOf(t *testing.T) {
	for _, code := range config.Codes() {
		e := config.Errorf(code, "it failed")
		for name, err := range map[string]error{
			"code":    code,
			"plain":   e,
			"wrapped": fmt.Errorf("reading: %w", e),
			"twice":   fmt.Errorf("a: %w", fmt.Errorf("b: %w", e)),
			"joined":  errors.Join(io.EOF, e),
			"as":      config.AsError(e, "op", config.Key{}),
			"with":    e.WithHint("mend it").WithVersion(3).WithKey(must(config.ParseKey("k"))).WithCause(io.EOF),
		} {
			if got := config.CodeOf(err); got != code {
				t.Errorf("CodeOf of %s, %s = %s", code, name, got)
			}
			for _, other := range config.Codes() {
				if is := errors.Is(err, other); is != (other == code) {
					t.Errorf("errors.Is of %s, %s, with %s = %t", code, name, other, is)
				}
			}
		}
	}
}

func TestContextErrors(t *testing.T) {
	for code, sentinel := range map[config.Code]error{config.Canceled: context.Canceled, config.DeadlineExceeded: context.DeadlineExceeded} {
		if got := config.CodeOf(fmt.Errorf("calling: %w", sentinel)); got != code {
			t.Errorf("CodeOf(%v) = %s, want %s", sentinel, got, code)
		}
		for _, other := range config.Codes() {
			if is := errors.Is(config.Errorf(other, "x"), sentinel); is != (other == code) {
				t.Errorf("errors.Is of code %s with %v = %t", other, sentinel, is)
			}
		}
		if e := config.AsError(sentinel, "op", config.Key{}); e.Code != code || !errors.Is(e, sentinel) {
			t.Errorf("AsError(%v) = %v", sentinel, e)
		}
	}
	if got := config.CodeOf(io.EOF); got != config.Unknown {
		t.Errorf("CodeOf of a foreign error = %s, want unknown", got)
	}
	if got := config.CodeOf(nil); got != config.Unknown {
		t.Errorf("CodeOf(nil) = %s, want unknown", got)
	}
}

func TestErrorText(t *testing.T) {
	key := must(config.ParseKey("tenant_config_limit"))
	for want, e := range map[string]*config.Error{
		"not found": {Code: config.NotFound},
		"local.Get: tenant_config_limit: not found": {Op: "local.Get", Key: key, Code: config.NotFound},
		"Put: it is too large (send less)":          {Op: "Put", Code: config.InvalidArgument, Message: "it is too large", Hint: "send less"},
		"tenant_config_limit: it broke":             {Key: key, Code: config.Internal, Message: "it broke", Err: errors.New("secret")},
		"code(99)":                                  {Code: 99},
	} {
		if got := e.Error(); got != want {
			t.Errorf("the error reads %q, want %q", got, want)
		}
	}
}

func TestErrorf(t *testing.T) {
	e := config.Errorf(config.Unavailable, "reading %d: %w", 7, io.ErrUnexpectedEOF)
	if e.Message != "reading 7: unexpected EOF" || !errors.Is(e, io.ErrUnexpectedEOF) || !errors.Is(e, config.Unavailable) {
		t.Errorf("Errorf = %+v", e)
	}
	if e := config.Errorf(config.Internal, "plain"); e.Err != nil || errors.Unwrap(e) != nil {
		t.Errorf("Errorf without a cause has the cause %v", e.Err)
	}
}

// TestWithCopies checks that a shared error, such as a package's sentinel, is
// not changed by those who add to it.
func TestWithCopies(t *testing.T) {
	e := config.Errorf(config.Conflict, "another version won")
	before := *e
	changed := e.WithHint("read %s", "again").WithKey(must(config.ParseKey("k"))).WithVersion(7).WithCause(io.EOF)
	if *e != before {
		t.Errorf("the original became %+v", e)
	}
	if changed.Hint != "read again" || changed.Key.String() != "k" || changed.Version != 7 || !errors.Is(changed, io.EOF) || changed.Code != config.Conflict {
		t.Errorf("the copy is %+v", changed)
	}
}

func TestAsError(t *testing.T) {
	k, other := must(config.ParseKey("k")), must(config.ParseKey("other"))

	inner := &config.Error{Code: config.Conflict, Message: "another version won", Version: 7, RetryAfter: time.Second}
	e := config.AsError(fmt.Errorf("outer: %w", inner), "op", k)
	if e == inner || e.Op != "op" || e.Key != k || e.Code != config.Conflict || e.Version != 7 || e.RetryAfter != time.Second {
		t.Errorf("AsError of a wrapped Error = %+v", e)
	}
	if inner.Op != "" || !inner.Key.IsZero() {
		t.Errorf("AsError changed the original to %+v", inner)
	}

	named := &config.Error{Op: "first", Key: other, Code: config.NotFound}
	if e := config.AsError(named, "second", k); e.Op != "first" || e.Key != other {
		t.Errorf("AsError of an Error with op and key = %+v, want its own to win", e)
	}

	foreign := errors.New("password=hunter2")
	e = config.AsError(foreign, "op", k)
	if e.Error() != "op: k: unknown" || !errors.Is(e, foreign) {
		t.Errorf("AsError of a foreign error reads %q, want nothing of its text", e)
	}
}

func TestEntryClone(t *testing.T) {
	e := config.Entry{ID: id("acme", "", "k"), Value: []byte("value"), Version: 3}
	c := e.Clone()
	c.Value[0] = '#'
	if string(e.Value) != "value" || c.Version != 3 || c.ID != e.ID {
		t.Errorf("after its clone was changed the value is %q", e.Value)
	}
	if c := (config.Entry{Value: []byte{}}).Clone(); c.Value == nil {
		t.Error("the clone of an empty value is nil")
	}
	if c := (config.Entry{}).Clone(); c.Value != nil {
		t.Error("the clone of no value is a value")
	}
}

func TestFreshnessNames(t *testing.T) {
	sources := map[config.Source]string{
		config.SourceUnknown: "unknown", config.SourceCache: "cache", config.SourceDAX: "dax", config.SourceStore: "store",
		config.SourceSnapshot: "snapshot", 99: "unknown",
	}
	for source, want := range sources {
		if got := source.String(); got != want {
			t.Errorf("source %d is %q, want %q", source, got, want)
		}
	}
	states := map[config.State]string{
		config.StateUnknown: "unknown", config.StateFresh: "fresh", config.StateStale: "stale", config.StateDegraded: "degraded", 99: "unknown",
	}
	for state, want := range states {
		if got := state.String(); got != want {
			t.Errorf("state %d is %q, want %q", state, got, want)
		}
	}
}
