package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/stack"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// canary is the value of every write of these tests. Its mark can only be made
// by who knows tenant and key, so each answer proves by itself that it is the
// right tenant's and the right key's, whatever test read it.
type canary struct {
	N    int    `json:"n"`
	Mark string `json:"mark"`
}

var canaryKey = []byte("end-to-end canaries")

func mark(tenant string, key config.Key, n int) string {
	mac := hmac.New(sha256.New, canaryKey)
	fmt.Fprintf(mac, "%d:%s%d:%s%d", len(tenant), tenant, len(key.String()), key, n)
	return hex.EncodeToString(mac.Sum(nil))
}

// user is one tenant's caller. Every answer that it gets is checked for its
// canary.
type user struct {
	tenant string
	client *client.Client
	ctx    context.Context //nolint:containedctx // it carries the token, for the length of one test
}

func newUser(t *testing.T, s *stack.Stack, tenant, role string) *user {
	t.Helper()
	c, err := client.New(s.ConfigGRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &user{tenant: tenant, client: c, ctx: client.ContextWithToken(t.Context(), s.Token(t, tenant, role))}
}

func (u *user) put(key config.Key, n int) (client.Entry, error) {
	value, err := json.Marshal(canary{N: n, Mark: mark(u.tenant, key, n)})
	if err != nil {
		return client.Entry{}, err
	}
	ctx, cancel := context.WithTimeout(u.ctx, 5*time.Second)
	defer cancel()
	return u.client.Put(ctx, client.PutRequest{Key: key, Value: value, Message: fmt.Sprintf("n=%d", n)})
}

// get returns the n of the value of key.
func (u *user) get(key config.Key) (int, error) {
	ctx, cancel := context.WithTimeout(u.ctx, 5*time.Second)
	defer cancel()
	answer, err := u.client.Get(ctx, key, config.Service{})
	if err != nil {
		return 0, err
	}
	return u.check(answer.Entry)
}

// check returns the n of an entry, or an error if it is not this tenant's.
func (u *user) check(e client.Entry) (int, error) {
	var c canary
	if err := json.Unmarshal(e.Value, &c); err != nil {
		return 0, fmt.Errorf("%s holds no canary: %w", e.Key, err)
	}
	if !hmac.Equal([]byte(c.Mark), []byte(mark(u.tenant, e.Key, c.N))) {
		return 0, fmt.Errorf("%s of %s holds a value of another tenant or key", e.Key, u.tenant)
	}
	return c.N, nil
}

func key(t *testing.T, format string, args ...any) config.Key {
	t.Helper()
	k, err := config.ParseKey(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
