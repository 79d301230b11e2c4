// Package probe asks an emulator whether it is there.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Service is one emulator: its name, and a request that only it answers with
// 200.
type Service struct {
	Name    string
	request func(ctx context.Context, endpoint string) (*http.Request, error)
}

// Moto shows a page of its own below /moto-api.
var Moto = Service{Name: "moto", request: func(ctx context.Context, endpoint string) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/moto-api/", nil)
}}

// DynamoDBLocal is asked for a call of the service: it takes connections before
// it can serve one.
var DynamoDBLocal = Service{Name: "dynamodb-local", request: func(ctx context.Context, endpoint string) (*http.Request, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint+"/", strings.NewReader(`{"Limit":1}`))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/x-amz-json-1.0")
	q.Header.Set("X-Amz-Target", "DynamoDB_20120810.ListTables")
	q.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=probe/20200101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
	return q, nil
}}

// ErrOther is wrapped by the error of an endpoint that answers, but not as the
// emulator does.
var ErrOther = errors.New("another server")

// Answers asks once, for no longer than five seconds.
func (s Service) Answers(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q, err := s.request(ctx, endpoint)
	if err != nil {
		return err
	}
	// No proxy, and no connection that outlives the call.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := client.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s to %s %s", ErrOther, a.Status, q.Method, q.URL)
	}
	return nil
}
