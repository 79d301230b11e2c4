package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	gosync "sync"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
)

// A service reads the value that applies to the caller whose token it holds.
func Example() {
	c, err := client.New("127.0.0.1:7070")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer c.Close()

	ctx := client.ContextWithToken(context.Background(), os.Getenv("TOKEN"))
	key, _ := config.ParseKey("tenant_config_payment-gateway")
	order, _ := config.ParseService("order")
	answer, err := c.Get(ctx, key, order)
	switch {
	case errors.Is(err, config.NotFound):
		fmt.Println("this tenant has no payment gateway")
	case err != nil:
		fmt.Fprintln(os.Stderr, client.RequestID(err), err)
	default:
		fmt.Printf("version %d: %s\n", answer.Entry.Version, answer.Entry.Value)
	}
}

// Without WithInsecure a client keeps tokens off the network's plain text.
func ExampleNew_plaintext() {
	_, err := client.New("config.internal:7070")
	fmt.Println(err)
	// Output: client.New: plaintext is allowed to this machine only (use TLS, or allow it explicitly if the network is trusted)
}

// A service that asks much has its Gets share streams, one for each token.
func ExampleWithStreams() {
	c, err := client.New("127.0.0.1:7070", client.WithStreams())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer c.Close()
	ctx := client.ContextWithToken(context.Background(), os.Getenv("TOKEN"))
	var asking gosync.WaitGroup
	for _, name := range []string{"tenant_config_payment-gateway", "tenant_config_order-limits"} {
		key, _ := config.ParseKey(name)
		asking.Go(func() {
			answer, err := c.Get(ctx, key, config.Service{})
			fmt.Fprintln(os.Stderr, key, answer.Entry.Version, err)
		})
	}
	asking.Wait()
}

// A service of one tenant reads typed values from memory, starts from its
// snapshot while tagstore is away, and goes on with the last good version where
// a new one can not be used.
func ExampleValue() {
	type limits struct{ MaxItems int }
	key, _ := config.ParseKey("tenant_config_order-limits")
	order, _ := config.ParseService("order")
	tenant, _ := config.ParseTenant("acme-corp")
	maxItems := &client.Value[limits]{
		Key: key, Service: order, Default: &limits{MaxItems: 10},
		Validate: func(l limits) error {
			if l.MaxItems < 1 {
				return errors.New("maxItems is below 1")
			}
			return nil
		},
	}

	c, err := client.New("127.0.0.1:7070,127.0.0.1:7071")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer c.Close()
	cache, err := client.NewCache(c, client.CacheOptions{Prefixes: []string{"tenant_config_"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer cache.Close()
	session, err := cache.Session(os.Getenv("TOKEN"), client.WithSnapshot(client.Snapshot{
		Path: "/var/lib/order/snapshot", Key: []byte(os.Getenv("SNAPSHOT_KEY")), Tenant: tenant,
	}))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}

	now, err := maxItems.Get(context.Background(), session)
	if err != nil {
		fmt.Fprintln(os.Stderr, client.RequestID(err), err)
		return
	}
	if now.Rejected != nil {
		fmt.Fprintln(os.Stderr, "the newest limits are not in use:", now.Rejected)
	}
	fmt.Printf("at most %d items, by version %d, which may be %v behind\n", now.Value.MaxItems, now.Version, now.Lag)
}

// A service of many tenants reads with the token of each request.
func ExampleCache() {
	c, err := client.New("127.0.0.1:7070")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer c.Close()
	cache, err := client.NewCache(c, client.CacheOptions{
		Prefixes: []string{"tenant_config_", "param_config_"},
		OnError:  func(err error) { fmt.Fprintln(os.Stderr, err) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer cache.Close()

	ctx := client.ContextWithToken(context.Background(), os.Getenv("TOKEN"))
	key, _ := config.ParseKey("param_config_currency")
	order, _ := config.ParseService("order")
	answer, err := cache.Get(ctx, key, order)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
	case answer.Freshness.State == config.StateStale:
		fmt.Printf("tagstore is away; %v ago it was %s\n", answer.Lag, answer.Entry.Value)
	default:
		fmt.Printf("%s\n", answer.Entry.Value)
	}
}
