package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"

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
