package latency

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/bench/stack"
)

// BenchmarkOrderPost: an order, placed over REST at the order service of a whole
// system: it is validated, its configuration read from two stores, and it is on
// the disk before it is answered. Beside it stands one durable write of a bare
// bbolt on the same disk.
func BenchmarkOrderPost(b *testing.B) {
	s, bare := stack.Start(b), openBare(b)
	const order = `{"items":[{"sku":"book","quantity":2,"unitPrice":15000}]}`
	token := "Bearer " + s.Token(b, "globex-inc", "editor")
	transport := &http.Transport{MaxIdleConnsPerHost: 1}
	b.Cleanup(transport.CloseIdleConnections)
	caller := &http.Client{Transport: transport}
	compare(b, 1, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.OrderHTTP+"/v1/orders", strings.NewReader(order))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", token)
		a, err := caller.Do(r)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body) // all of it, so that the connection is used again
		if err == nil && a.StatusCode != http.StatusCreated {
			err = fmt.Errorf("the answer is %s: %s", a.Status, body)
		}
		return err
	}, bare)
}
