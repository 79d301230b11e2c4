// Package check asks a running system what it promises its tenants: that orders are
// decided by the tenant's own configuration, that nobody sees another's, and that a
// change somebody makes in a store decides orders within seconds.
//
// It knows the order service's API and the table of the configuration, nothing else,
// so it is the same for a stack at AWS and for a system on this machine.
package check

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/tagstore/tagstore/core/config"
)

const (
	requestTimeout = 30 * time.Second
	poll           = 50 * time.Millisecond
	// attempts is how often an answer of 5xx is asked for again: what is new may be on
	// its way up.
	attempts = 3
)

// Tenant is one of the two that are asked as.
type Tenant struct {
	Name  string // as in the keys of the table
	Token string
}

// System is what is asked.
type System struct {
	Orders string // URL of the order service
	A, B   Tenant
	// Table holds the tenants' limits. Its items are changed as another tool of the
	// tenant's would, and brought back.
	Table  string
	Tables *dynamodb.Client
	// Within is how long a change may take to decide orders.
	Within time.Duration
	// Say is told of each thing that was found true.
	Say func(format string, args ...any)

	run string
}

// Run asks everything, in order, and returns the first thing that is not as it
// should be. What it changed in the table it has brought back then, unless the
// process was killed; the next Run brings it back, too.
func (s *System) Run(ctx context.Context) error {
	s.run = strings.ToLower(rand.Text()[:10])
	for _, step := range []func(context.Context) error{s.recover, s.open, s.flow, s.apart, s.refresh} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// limits are a tenant's, with where they stand.
type limits struct {
	key      map[string]types.AttributeValue
	min, max int64
}

// before is the attribute in which a changed minimum stands as it was.
const before = "checkBefore"

// read returns the limits of a tenant. Those of its service order come first, as they
// do for the service.
func (s *System) read(ctx context.Context, t Tenant) (*limits, error) {
	for _, partition := range []string{"TENANT#" + t.Name + "|SERVICE#order", "TENANT#" + t.Name} {
		key := map[string]types.AttributeValue{
			"pk": &types.AttributeValueMemberS{Value: partition}, "sk": &types.AttributeValueMemberS{Value: "CONFIG#order-limits"},
		}
		out, err := s.Tables.GetItem(ctx, &dynamodb.GetItemInput{TableName: &s.Table, Key: key, ConsistentRead: aws.Bool(true)})
		if err != nil {
			return nil, config.Errorf(config.Unavailable, "the table of the configuration can not be read").
				WithHint("look at the credentials of AWS and at AWS_REGION").WithCause(err)
		}
		found, _ := out.Item["config"].(*types.AttributeValueMemberM)
		if found == nil {
			continue
		}
		l := &limits{key: key}
		for name, to := range map[string]*int64{"minAmount": &l.min, "maxAmount": &l.max} {
			n, _ := found.Value[name].(*types.AttributeValueMemberN)
			if n == nil {
				return nil, config.Errorf(config.FailedPrecondition, "a tenant's order limits have no %s", name).WithHint("seed anew: deploy/seed.sh")
			}
			if *to, err = strconv.ParseInt(n.Value, 10, 64); err != nil {
				return nil, config.Errorf(config.FailedPrecondition, "%s of a tenant's order limits is no whole number", name)
			}
		}
		return l, nil
	}
	return nil, config.Errorf(config.FailedPrecondition, "one of the two tenants has no order limits in the table").
		WithHint("write first values with deploy/seed.sh, or name tenants that have some")
}

// recover brings back what a killed run has changed.
func (s *System) recover(ctx context.Context) error {
	for _, t := range []Tenant{s.A, s.B} {
		l, err := s.read(ctx, t)
		if err != nil {
			return err
		}
		out, err := s.Tables.GetItem(ctx, &dynamodb.GetItemInput{TableName: &s.Table, Key: l.key, ConsistentRead: aws.Bool(true)})
		if err != nil {
			return config.Errorf(config.Unavailable, "the table of the configuration can not be read").WithCause(err)
		}
		was, _ := out.Item[before].(*types.AttributeValueMemberN)
		if was == nil {
			continue
		}
		if err := s.bringBack(ctx, l.key, was.Value); err != nil {
			return err
		}
		if l.min, err = strconv.ParseInt(was.Value, 10, 64); err != nil {
			return config.Errorf(config.DataLoss, "what an earlier test left is no whole number").WithHint("seed anew: deploy/seed.sh")
		}
		if _, err := s.becomes(ctx, t, l, http.StatusCreated, time.Now()); err != nil {
			return err
		}
		s.Say("ok    what an earlier test left is brought back")
	}
	return nil
}

// raise makes a tenant's minimum one that no order meets.
func (s *System) raise(ctx context.Context, l *limits) error {
	_, err := s.Tables.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &s.Table, Key: l.key,
		UpdateExpression: aws.String("SET config.minAmount = :high, #before = :was, #version = if_not_exists(#version, :one) + :one, updatedAt = :now"),
		// Not on top of somebody else's change.
		ConditionExpression:      aws.String("config.minAmount = :was AND attribute_not_exists(#before)"),
		ExpressionAttributeNames: map[string]string{"#before": before, "#version": "version"},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":high": number(l.max), ":was": number(l.min), ":one": number(1), ":now": now(),
		},
	})
	if err != nil {
		return config.Errorf(config.Unavailable, "the table of the configuration can not be changed").
			WithHint("look at the credentials of AWS; somebody else may have changed the same item, or tests it: run again").WithCause(err)
	}
	return nil
}

func (s *System) bringBack(ctx context.Context, key map[string]types.AttributeValue, was string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	_, err := s.Tables.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &s.Table, Key: key,
		UpdateExpression:         aws.String("SET config.minAmount = :was, #version = #version + :one, updatedAt = :now REMOVE #before"),
		ConditionExpression:      aws.String("#before = :was"),
		ExpressionAttributeNames: map[string]string{"#before": before, "#version": "version"},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":was": &types.AttributeValueMemberN{Value: was}, ":one": number(1), ":now": now(),
		},
	})
	if err != nil {
		return config.Errorf(config.OutcomeUnknown, "a tenant's order limits could not be brought back").
			WithHint("run again: it brings them back first").WithCause(err)
	}
	return nil
}

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func now() types.AttributeValue {
	return &types.AttributeValueMemberS{Value: time.Now().UTC().Format(time.RFC3339Nano)}
}

// answer is one of the order service.
type answer struct {
	status int
	body   []byte
	replay bool
}

func (a *answer) text(field string) string {
	var fields map[string]any
	_ = json.Unmarshal(a.body, &fields) // what is no object has no field
	s, _ := fields[field].(string)
	return s
}

// ask sends one request. The body is read to its end, and bounded.
func (s *System) ask(ctx context.Context, method, path, token, once, body string) (*answer, error) {
	for try := 1; ; try++ {
		got, err := s.askOnce(ctx, method, path, token, once, body)
		if err != nil || got.status < 500 || try == attempts {
			return got, err
		}
		if err := sleep(ctx, poll<<try); err != nil {
			return nil, err
		}
	}
}

func (s *System) askOnce(ctx context.Context, method, path, token, once, body string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.Orders, "/")+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, config.Errorf(config.InvalidArgument, "the URL of the order service is none")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if once != "" {
		request.Header.Set("Idempotency-Key", once)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, config.Errorf(config.Unavailable, "the order service does not answer").WithHint("is the system running, and is its URL right?").WithCause(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, config.Errorf(config.Unavailable, "the order service broke off in its answer").WithCause(err)
	}
	return &answer{status: response.StatusCode, body: text, replay: response.Header.Get("Idempotency-Replayed") == "true"}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return config.Errorf(config.Canceled, "interrupted").WithCause(ctx.Err())
	case <-time.After(d):
		return nil
	}
}

// wrong is an answer that should be another one.
func wrong(what string, want int, got *answer) error {
	return config.Errorf(config.FailedPrecondition, "%s: answered %d (%s), want %d", what, got.status, got.text("title"), want)
}

// place places an order that the limits allow.
func (s *System) place(ctx context.Context, t Tenant, l *limits, once string) (*answer, error) {
	body := fmt.Sprintf(`{"items":[{"sku":"check","quantity":1,"unitPrice":%d}],"reference":"check %s"}`, l.min, s.run)
	return s.ask(ctx, http.MethodPost, "/v1/orders", t.Token, once, body)
}

// open: the API says what it is, and nothing else without a token.
func (s *System) open(ctx context.Context) error {
	for _, c := range []struct {
		what, method, path, token string
		want                      int
	}{
		{"openapi.json is served to anybody", http.MethodGet, "/openapi.json", "", http.StatusOK},
		{"an order without a token is refused", http.MethodPost, "/v1/orders", "", http.StatusUnauthorized},
		{"an order with a token that nobody signed is refused", http.MethodPost, "/v1/orders", "not.a.token", http.StatusUnauthorized},
	} {
		got, err := s.ask(ctx, c.method, c.path, c.token, "", "")
		if err != nil {
			return err
		}
		if got.status != c.want {
			return wrong(c.what, c.want, got)
		}
		s.Say("ok    %s", c.what)
	}
	return nil
}

// flow: an order is placed once, shown and listed, for each tenant.
func (s *System) flow(ctx context.Context) error {
	for i, t := range []Tenant{s.A, s.B} {
		l, err := s.read(ctx, t)
		if err != nil {
			return err
		}
		name := [...]string{"A", "B"}[i]
		once := "flow-" + name + "-" + s.run
		placed, err := s.place(ctx, t, l, once)
		if err != nil {
			return err
		}
		if placed.status != http.StatusCreated {
			return wrong("tenant "+name+" places an order", http.StatusCreated, placed)
		}
		again, err := s.place(ctx, t, l, once)
		if err != nil {
			return err
		}
		if again.status != http.StatusCreated || again.text("id") != placed.text("id") || !again.replay {
			return wrong("the same request again is the same order", http.StatusCreated, again)
		}
		shown, err := s.ask(ctx, http.MethodGet, "/v1/orders/"+placed.text("id"), t.Token, "", "")
		if err != nil {
			return err
		}
		if shown.status != http.StatusOK || shown.text("id") != placed.text("id") {
			return wrong("an order is shown to its tenant", http.StatusOK, shown)
		}
		s.Say("ok    tenant %s: an order is placed, once for each key, and shown", name)
	}
	return nil
}

// apart: neither tenant sees the other's order, which is no other than one that
// never was.
func (s *System) apart(ctx context.Context) error {
	for i, t := range []Tenant{s.A, s.B} {
		other := []Tenant{s.B, s.A}[i]
		name, otherName := [...]string{"A", "B"}[i], [...]string{"B", "A"}[i]
		l, err := s.read(ctx, t)
		if err != nil {
			return err
		}
		placed, err := s.place(ctx, t, l, "apart-"+name+"-"+s.run)
		if err != nil {
			return err
		}
		id := placed.text("id")
		if placed.status != http.StatusCreated || len(id) < 2 {
			return wrong("tenant "+name+" places an order", http.StatusCreated, placed)
		}
		foreign, err := s.ask(ctx, http.MethodGet, "/v1/orders/"+id, other.Token, "", "")
		if err != nil {
			return err
		}
		if foreign.status != http.StatusNotFound {
			return wrong("the order of another tenant", http.StatusNotFound, foreign)
		}
		// Another order, which nobody has placed.
		last := "0"
		if strings.HasSuffix(id, last) {
			last = "1"
		}
		none, err := s.ask(ctx, http.MethodGet, "/v1/orders/"+id[:len(id)-1]+last, other.Token, "", "")
		if err != nil {
			return err
		}
		if none.status != http.StatusNotFound || !bytes.Equal(none.body, foreign.body) {
			return config.Errorf(config.FailedPrecondition, "another tenant's order is told apart from one that never was")
		}
		listed, err := s.ask(ctx, http.MethodGet, "/v1/orders?limit=100", other.Token, "", "")
		if err != nil {
			return err
		}
		if listed.status != http.StatusOK {
			return wrong("a list of orders", http.StatusOK, listed)
		}
		if bytes.Contains(listed.body, []byte(id)) {
			return config.Errorf(config.FailedPrecondition, "the list of one tenant has another's order")
		}
		s.Say("ok    tenant %s's order: to tenant %s it is one that never was, and in no list", name, otherName)
	}
	return nil
}

// refresh: a change in the store, past every service, decides the tenant's next
// orders within seconds, and nobody else's.
func (s *System) refresh(ctx context.Context) (err error) {
	a, err := s.read(ctx, s.A)
	if err != nil {
		return err
	}
	b, err := s.read(ctx, s.B)
	if err != nil {
		return err
	}
	if err := s.raise(ctx, a); err != nil {
		return err
	}
	changed := time.Now()
	raised := true
	back := func() error {
		raised = false
		return s.bringBack(ctx, a.key, strconv.FormatInt(a.min, 10))
	}
	defer func() {
		if raised {
			if again := back(); err == nil {
				err = again
			}
		}
	}()
	took, err := s.becomes(ctx, s.A, a, http.StatusUnprocessableEntity, changed)
	if err != nil {
		return err
	}
	s.Say("ok    tenant A's limit, raised in the table, refuses orders after %s", took)
	other, err := s.place(ctx, s.B, b, "refresh-B-"+s.run)
	if err != nil {
		return err
	}
	if other.status != http.StatusCreated {
		return wrong("tenant B places an order while tenant A's limit is raised", http.StatusCreated, other)
	}
	s.Say("ok    tenant B's orders are decided as before")
	if err := back(); err != nil {
		return err
	}
	took, err = s.becomes(ctx, s.A, a, http.StatusCreated, time.Now())
	if err != nil {
		return err
	}
	s.Say("ok    brought back, it accepts them after %s", took)
	return nil
}

// becomes places a tenant's orders until they are answered with a status.
func (s *System) becomes(ctx context.Context, t Tenant, l *limits, want int, since time.Time) (time.Duration, error) {
	for n := 0; ; n++ {
		got, err := s.place(ctx, t, l, fmt.Sprintf("until-%d-%d-%s", since.UnixNano(), n, s.run))
		if err != nil {
			return 0, err
		}
		took := time.Since(since).Round(10 * time.Millisecond)
		if got.status == want {
			return took, nil
		}
		if took > s.Within {
			return 0, config.Errorf(config.DeadlineExceeded, "a change in the table has not decided orders for %s: still %d, want %d", took, got.status, want).
				WithHint("look at the refresh function, its queues and alarms: docs/runbook.md")
		}
		if err := sleep(ctx, poll); err != nil {
			return 0, err
		}
	}
}
