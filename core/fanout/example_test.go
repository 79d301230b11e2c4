package fanout_test

import (
	"context"
	"fmt"

	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/fanout"
)

func Example() {
	f, err := fanout.New(fanout.Options{
		Discoverer: fanout.Static(fanout.Replica{ID: "one", Address: "127.0.0.1:1"}),
		Tokens:     tokens{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	// Nobody listens there, so the change is not known to be everywhere.
	report, err := f.Refresh(context.Background(), []client.RefreshTarget{{Tenant: config.Shared()}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(report.Err())
	// Output: fanout.Refresh: 1 of 1 replicas did not acknowledge: one (unavailable)
}
