package dynamodbbackend

import (
	"flag"
	"maps"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/tagstore/tagstore/core/driver"
	"github.com/tagstore/tagstore/core/drivertest"
	"github.com/tagstore/tagstore/core/plugintest"
	"github.com/tagstore/tagstore/emulators"
	"github.com/tagstore/tagstore/plugins/dynamodb/internal/daxtest"
)

var claim = drivertest.Caps{Batch: true, History: true, Ping: true, Idempotent: true, MaxValue: defaults.MaxValue}

// motoMaxValue: moto counts a binary attribute as the base64 text in which it is
// sent, and an update as what was there before on top of what there will be.
// DynamoDB counts bytes, and what there will be.
const motoMaxValue = 140 << 10

func inProcess(endpoint string, o Options) drivertest.Open {
	return func(t testing.TB) *drivertest.Harness {
		t.Helper()
		o := o
		o.Table = table(t, endpoint)
		reopen := func() (driver.Backend, error) { return Open(t.Context(), o) }
		b, err := reopen()
		if err != nil {
			t.Fatal(err)
		}
		return &drivertest.Harness{Backend: b, Peer: openStore(t, o), Reopen: reopen}
	}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, claim, inProcess(local(t), Options{}))
}

func TestConformanceOnMoto(t *testing.T) {
	endpoint := emulators.Moto(t)
	at(t, endpoint)
	claim := claim
	claim.MaxValue = motoMaxValue
	drivertest.Run(t, claim, inProcess(endpoint, Options{MaxValue: motoMaxValue}))
}

// eventual is what the store claims with eventually consistent reads.
func eventual() drivertest.Caps {
	claim := claim
	claim.Refresh, claim.Caveats.EventualReads = true, true
	return claim
}

func TestConformanceWithEventualReads(t *testing.T) {
	drivertest.Run(t, eventual(), inProcess(local(t), Options{ConsistentReads: aws.Bool(false)}))
}

// withDAX gives every case a DAX node of its own. Nothing tells it of writes, and
// it keeps what it read for longer than any case lasts.
func withDAX(endpoint string, o Options) drivertest.Open {
	return func(t testing.TB) *drivertest.Harness {
		t.Helper()
		o := o
		o.DAXEndpoint = daxtest.Start(t, daxtest.Options{DynamoDB: endpoint}).Endpoint()
		return inProcess(endpoint, o)(t)
	}
}

func TestConformanceWithDAX(t *testing.T) {
	drivertest.Run(t, eventual(), withDAX(local(t), Options{}))
}

func TestConformanceWithDAXOnMoto(t *testing.T) {
	endpoint := emulators.Moto(t)
	at(t, endpoint)
	claim := eventual()
	claim.MaxValue = motoMaxValue
	drivertest.Run(t, claim, withDAX(endpoint, Options{MaxValue: motoMaxValue}))
}

// onMoto sends the program's suites to moto; `make conformance` runs them there
// as well.
var onMoto = flag.Bool("program-on-moto", false, "hold the program to the suite on moto instead of DynamoDB Local")

func runProgram(t *testing.T, claim drivertest.Caps, dax bool) {
	t.Helper()
	endpoint, options := local(t), map[string]any{}
	if *onMoto {
		endpoint = emulators.Moto(t)
		at(t, endpoint)
		claim.MaxValue = motoMaxValue
		options["max_value"] = motoMaxValue
	}
	if dax {
		options["dax_endpoint"] = daxtest.Start(t, daxtest.Options{DynamoDB: endpoint}).Endpoint()
	}
	plugintest.Run(t, "..", func(t testing.TB) any {
		o := maps.Clone(options)
		o["table"] = table(t, endpoint)
		return o
	}, claim, plugintest.Durable(), plugintest.Shared(), plugintest.AWS())
}

func TestConformanceOfTheProgramWithDAX(t *testing.T) { runProgram(t, eventual(), true) }

func TestConformanceOfTheProgram(t *testing.T) { runProgram(t, claim, false) }
