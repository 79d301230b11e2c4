package daxread

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/tagstore/tagstore/plugins/dynamodb/internal/daxtest"
)

// atOnce is more than anything takes that waits for nobody, on a machine that
// is busy, and less than MaxRequestTimeout, which a call takes that does.
const atOnce = 8 * time.Second

// clock is a clock that stands still until it is moved.
type clock struct{ offset atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Unix(1_700_000_000+0, c.offset.Load()) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }
func (c *clock) control(client *Client) {
	client.breaker.mu.Lock()
	client.breaker.now = c.Now
	client.breaker.mu.Unlock()
}

func (w *world) stopClock() (moved *clock) { moved = &clock{}; moved.control(w.Client); return moved }

// fallBack reads as a store does: from the cluster, else from DynamoDB.
func (w *world) fallBack(ctx context.Context, pk, sk string) (value string, fellBack bool, err error) {
	value, err = w.value(ctx, pk, sk)
	if !errors.Is(err, ErrUnavailable) {
		return value, false, err
	}
	in := w.input(pk, sk)
	in.ConsistentRead = aws.Bool(true)
	out, err := w.past.GetItem(ctx, in)
	if err != nil {
		return "", true, err
	}
	return text(out.Item["v"]), true, nil
}

// readers run reads in parallel until they are stopped, and return what came
// of them.
type readers struct {
	reads, fallbacks, failures atomic.Int64
	slowest                    atomic.Int64
	wg                         sync.WaitGroup
	stop                       context.CancelFunc
}

func (w *world) readers(t *testing.T, n int) *readers {
	ctx, stop := context.WithCancel(t.Context())
	r := &readers{stop: stop}
	for i := range n {
		sk := fmt.Sprintf("CONFIG#%d", i)
		w.put(t, "TENANT#a", sk, sk)
		r.wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				got, fell, err := w.fallBack(ctx, "TENANT#a", sk)
				if ctx.Err() != nil {
					return
				}
				r.reads.Add(1)
				if fell {
					r.fallbacks.Add(1)
				} else {
					r.slowest.Store(max(r.slowest.Load(), int64(time.Since(start))))
				}
				if err != nil || got != sk {
					r.failures.Add(1)
					t.Errorf("read %q, %v, want %q", got, err, sk)
				}
			}
		})
	}
	return r
}

func (r *readers) wait(t *testing.T, reads int64) {
	t.Helper()
	want := r.reads.Load() + reads
	eventually(t, "more reads", func() bool { return r.reads.Load() >= want })
}

// TestReadersThroughARestart keeps 16 readers going while the node restarts
// and while it drops its connections, again and again.
func TestReadersThroughARestart(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	r := w.readers(t, 16)
	r.wait(t, 200)
	if n := r.fallbacks.Load(); n != 0 {
		t.Errorf("%d fallbacks before the restart", n)
	}
	for range 3 {
		w.Down()
		r.wait(t, 100) // answered by DynamoDB
		if err := w.Up(); err != nil {
			t.Fatal(err)
		}
		calls := w.Calls(daxtest.BatchGetItem)
		eventually(t, "the readers come back to the cluster", func() bool { return w.Calls(daxtest.BatchGetItem) > calls+100 })
	}
	r.stop()
	r.wg.Wait()
	t.Logf("16 readers through 3 restarts: %d reads, %d answered by DynamoDB instead, %d failed", r.reads.Load(), r.fallbacks.Load(), r.failures.Load())
	if r.fallbacks.Load() == 0 {
		t.Error("no read fell back, so the node was never down")
	}
}

// TestDroppedConnections closes every pooled connection under the readers: no
// read may notice, because the node itself is there all the time.
func TestDroppedConnections(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	r := w.readers(t, 16)
	for range 20 {
		r.wait(t, 50)
		w.DropConnections()
	}
	r.wait(t, 50)
	r.stop()
	r.wg.Wait()
	t.Logf("16 readers, connections dropped 20 times: %d reads, %d answered by DynamoDB instead, slowest %v", r.reads.Load(), r.fallbacks.Load(), time.Duration(r.slowest.Load()))
	if n := r.fallbacks.Load(); n != 0 {
		t.Errorf("%d reads fell back", n)
	}
}

// TestIdlePoolIsDrained fills the pool, lets all of its connections die, and
// wants the next read to be answered.
func TestIdlePoolIsDrained(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	heal := w.Fail(daxtest.BatchGetItem, daxtest.Fault{Delay: 50 * time.Millisecond})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { w.want(t, "TENANT#a", "CONFIG#x", "1") })
	}
	wg.Wait()
	heal()
	pooled := 0
	for _, c := range w.Connections() {
		if c.Open {
			pooled++
		}
	}
	if pooled < 16 {
		t.Fatalf("only %d connections", pooled)
	}
	if err := w.Restart(); err != nil {
		t.Fatal(err)
	}
	w.want(t, "TENANT#a", "CONFIG#x", "1")
	t.Logf("the read that met %d dead connections was answered", pooled)
}

// TestHang wants every call bounded, the circuit open after a few, and the
// cluster back in use once it answers.
func TestHang(t *testing.T) {
	const timeout = 500 * time.Millisecond
	w := newWorld(t, daxtest.Options{}, Options{RequestTimeout: timeout})
	clock := w.stopClock()
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	eventually(t, "a first answer", func() bool { _, err := w.value(t.Context(), "TENANT#a", "CONFIG#x"); return err == nil })

	heal := w.Fail(daxtest.Any, daxtest.Fault{Hang: true})
	for range failuresToOpen {
		start := time.Now()
		_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
		wantError(t, err, ErrUnavailable)
		if took := time.Since(start); took < timeout/2 || took > timeout+atOnce {
			t.Errorf("a call took %v, want about %v", took, timeout)
		}
	}
	calls, start := w.Calls(daxtest.BatchGetItem), time.Now()
	for range 1000 {
		_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
		wantError(t, err, ErrUnavailable)
	}
	if got := w.Calls(daxtest.BatchGetItem); got != calls {
		t.Errorf("an open circuit let %d calls through", got-calls)
	}
	if took := time.Since(start); took > atOnce {
		t.Errorf("1000 calls with an open circuit took %v", took)
	}
	// Of many calls after the cooldown, one pays.
	clock.advance(firstCooldown)
	for range 50 {
		_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
		wantError(t, err, ErrUnavailable)
	}
	if got := w.Calls(daxtest.BatchGetItem) - calls; got < 1 || got > maxTimeouts {
		t.Errorf("50 calls after the cooldown made %d requests, want those of one", got)
	}
	heal()
	w.DropConnections() // those that hang
	clock.advance(firstCooldown)
	if _, err := w.value(t.Context(), "TENANT#a", "CONFIG#x"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the second cooldown was not longer than the first: %v", err)
	}
	clock.advance(firstCooldown)
	w.want(t, "TENANT#a", "CONFIG#x", "1")
	w.want(t, "TENANT#a", "CONFIG#x", "1")
}

// TestDeadCluster opens a client where nobody listens.
func TestDeadCluster(t *testing.T) {
	w := newNode(t, daxtest.Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.Down()
	start := time.Now()
	w.Client = open(t, Options{Endpoint: w.Endpoint()})
	if took := time.Since(start); took > openTimeout+atOnce {
		t.Errorf("Open took %v", took)
	}
	start = time.Now()
	for range 1000 {
		_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
		wantError(t, err, ErrUnavailable)
	}
	if took := time.Since(start); took > atOnce {
		t.Errorf("1000 calls took %v", took)
	}
	if err := w.Up(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer", func() bool { got, err := w.value(t.Context(), "TENANT#a", "CONFIG#x"); return err == nil && got == "1" })
}

// TestSilentCluster opens a client where connections are accepted and nothing
// is ever said.
func TestSilentCluster(t *testing.T) {
	w := newNode(t, daxtest.Options{})
	w.Fail(daxtest.Any, daxtest.Fault{Hang: true})
	start := time.Now()
	c := open(t, Options{Endpoint: w.Endpoint()})
	_, err := c.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#x"))
	wantError(t, err, ErrUnavailable)
	if took := time.Since(start); took > openTimeout+atOnce {
		t.Errorf("Open and a read took %v", took)
	}
	start = time.Now()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > closeTimeout+atOnce {
		t.Errorf("Close took %v", took)
	}
}

// TestDeadNode has a cluster of one node that lives and one that does not:
// reads find the living one.
func TestDeadNode(t *testing.T) {
	dead := daxtest.Start(t, daxtest.Options{})
	dead.Down()
	w := newNode(t, daxtest.Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.SetEndpoints(w.Address(), dead.Address())
	w.Client = open(t, Options{Endpoint: w.Endpoint(), RequestTimeout: 2 * time.Second})
	answers := 0
	for range 200 {
		if got, err := w.value(t.Context(), "TENANT#a", "CONFIG#x"); err == nil && got == "1" {
			answers++
		} else if !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	t.Logf("with one of two nodes dead, %d of 200 reads were answered", answers)
	if answers < 190 {
		t.Errorf("%d of 200 reads were answered", answers)
	}

	w.SetEndpoints(dead.Address())
	c := open(t, Options{Endpoint: w.Endpoint()})
	start := time.Now()
	_, err := c.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#x"))
	wantError(t, err, ErrUnavailable)
	if took := time.Since(start); took > atOnce {
		t.Errorf("a read of a dead cluster took %v", took)
	}
}

// TestLyingNode answers with another tenant's item: it must never come out,
// and the node must not be asked again.
func TestLyingNode(t *testing.T) {
	reads := map[string]func(w *world) (any, error){
		"get": func(w *world) (any, error) { return w.GetItem(t.Context(), w.input("TENANT#a", "CONFIG#x")) },
		"batch": func(w *world) (any, error) {
			return w.BatchGetItem(t.Context(), w.batch(key("TENANT#a", "CONFIG#x"), key("TENANT#a", "CONFIG#y")))
		},
		"projection": func(w *world) (any, error) {
			in := w.input("TENANT#a", "CONFIG#x")
			in.ProjectionExpression = aws.String("pk, sk, v")
			return w.GetItem(t.Context(), in)
		},
	}
	lies := map[string]daxtest.Item{
		"another tenant's item": key("TENANT#b", "CONFIG#x"),
		"another item":          key("TENANT#a", "CONFIG#z"),
	}
	for readName, read := range reads {
		for lieName, lie := range lies {
			t.Run(readName+"/"+lieName, func(t *testing.T) {
				w := newWorld(t, daxtest.Options{}, Options{})
				w.put(t, "TENANT#a", "CONFIG#x", "mine")
				w.put(t, text(lie["pk"]), text(lie["sk"]), "not mine")
				defer w.Fail(daxtest.BatchGetItem, daxtest.Fault{Instead: lie})()
				out, err := read(w)
				wantError(t, err, ErrWrongItem)
				wantError(t, err, ErrUnavailable)
				switch out := out.(type) {
				case *dynamodb.GetItemOutput:
					if out != nil {
						t.Errorf("got an answer: %v", out.Item)
					}
				case *dynamodb.BatchGetItemOutput:
					if out != nil {
						t.Errorf("got an answer: %v", out.Responses)
					}
				}
				calls := w.Calls(daxtest.BatchGetItem)
				_, err = read(w)
				wantError(t, err, ErrUnavailable)
				if n := w.Calls(daxtest.BatchGetItem); n != calls {
					t.Error("the liar was asked again")
				}
			})
		}
	}
}

func TestTwiceTheSameItemIsALie(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.put(t, "TENANT#a", "CONFIG#y", "2")
	defer w.Fail(daxtest.BatchGetItem, daxtest.Fault{Instead: key("TENANT#a", "CONFIG#x")})()
	_, err := w.BatchGetItem(t.Context(), w.batch(key("TENANT#a", "CONFIG#x"), key("TENANT#a", "CONFIG#y")))
	wantError(t, err, ErrWrongItem)
}

func TestErrorsOfTheCluster(t *testing.T) {
	for code, want := range map[string]struct {
		err   error
		tries int
	}{
		"ThrottlingException":                    {ErrThrottled, 1},
		"ProvisionedThroughputExceededException": {ErrThrottled, 1},
		"InternalServerError":                    {ErrUnavailable, maxOther},
		"ResourceInUseException":                 {ErrUnavailable, maxOther},
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t, daxtest.Options{}, Options{})
			defer w.Fail(daxtest.BatchGetItem, daxtest.Fault{Failure: daxtest.Fail(code, "arn:aws:dynamodb:us-east-1:123456789012:table/secret")})()
			_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
			wantError(t, err, want.err)
			if got := err.Error(); len(got) > 80 || !errors.Is(err, want.err) {
				t.Errorf("the text %q has something from the cluster", got)
			}
			if n := w.Calls(daxtest.BatchGetItem); n != want.tries {
				t.Errorf("%d attempts, want %d", n, want.tries)
			}
			for range failuresToOpen {
				_, _ = w.value(t.Context(), "TENANT#a", "CONFIG#x")
			}
			if isOpen := opened(w.Client) > 0; isOpen != errors.Is(want.err, ErrUnavailable) {
				t.Errorf("circuit open: %v", isOpen)
			}
		})
	}
	// A failure that passes is not seen.
	w := newWorld(t, daxtest.Options{}, Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	for _, f := range []daxtest.Fault{
		{Failure: daxtest.Fail("InternalServerError", "once")},
		{Failure: daxtest.AuthenticationRequired},
		{Drop: daxtest.DropBefore},
		{Drop: daxtest.DropAfter},
		{Drop: daxtest.DropMidway},
	} {
		f.Times = 1
		w.Fail(daxtest.BatchGetItem, f)
		w.want(t, "TENANT#a", "CONFIG#x", "1")
	}
}

// TestGarbage answers with bytes that the library trusts: each would end the
// process, hang it, or allocate without end.
func TestGarbage(t *testing.T) {
	huge := []byte{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for name, raw := range map[string][]byte{
		"not CBOR":              []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"an endless error":      huge,
		"a huge error":          {0x9a, 0x7f, 0xff, 0xff, 0xff},
		"a huge list":           append([]byte{0x80}, huge...),
		"a huge string":         {0x80, 0x7b, 0, 0, 0, 1, 0, 0, 0, 0},
		"a deep list":           append([]byte{0x80}, make81(1000)...),
		"a short float":         {0x80, 0x82, 0xa0, 0xa0, 0x81, 0x41, 0x61, 0xf9, 0, 0},
		"an empty answer":       {0x80, 0xa0},
		"a wrong answer":        {0x80, 0x82, 0x01, 0x02},
		"a success without end": {0x80},
		"ordinals beyond all":   {0x80, 0x82, 0xa1, 0x61, 'x', 0x81, 0xa1, 0x05, 0x01, 0xa0, 0x80},
	} {
		t.Run(name, func(t *testing.T) {
			const timeout = 300 * time.Millisecond
			w := newWorld(t, daxtest.Options{}, Options{RequestTimeout: timeout})
			for _, method := range []string{daxtest.BatchGetItem, daxtest.DefineKeySchema, daxtest.DefineAttributeList} {
				w.Fail(method, daxtest.Fault{Raw: raw})
			}
			w.put(t, "TENANT#a", "CONFIG#x", "1")
			start := time.Now()
			_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
			wantError(t, err, ErrUnavailable)
			if took := time.Since(start); took > timeout+atOnce {
				t.Errorf("took %v", took)
			}
		})
		t.Run(name+" about the nodes", func(t *testing.T) {
			w := newNode(t, daxtest.Options{})
			heal := w.Fail(daxtest.Endpoints, daxtest.Fault{Raw: raw})
			w.Client = open(t, Options{Endpoint: w.Endpoint()})
			_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
			wantError(t, err, ErrUnavailable)
			heal()
		})
	}
}

// TestGarbageBehindTheScenes breaks the answers to the questions that the
// library asks by itself, where its panics would end this very process.
func TestGarbageBehindTheScenes(t *testing.T) {
	for name, raw := range map[string][]byte{
		"an endless error": {0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"an endless list":  {0x80, 0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a deep list":      append([]byte{0x80}, make81(1<<20)...),
		"not CBOR":         []byte("garbage"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, daxtest.Options{}, Options{refresh: 10 * time.Millisecond})
			w.put(t, "TENANT#a", "CONFIG#x", "1")
			w.want(t, "TENANT#a", "CONFIG#x", "1")
			w.Fail(daxtest.Endpoints, daxtest.Fault{Raw: raw})
			asked := w.Calls(daxtest.Endpoints)
			eventually(t, "the library asks again", func() bool { return w.Calls(daxtest.Endpoints) > asked+5 })
			w.want(t, "TENANT#a", "CONFIG#x", "1")
		})
	}
}

func make81(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 0x81 // a list of one element
	}
	return b
}

// TestPanic makes the library panic, with a table that has no key, and wants
// an error, and then a client that works.
func TestPanic(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	clock := w.stopClock()
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	heal := w.Fail(daxtest.DefineKeySchema, daxtest.Fault{Raw: []byte{0x80, 0xa0}})
	_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
	wantError(t, err, ErrUnavailable)
	var p *panicError
	if !errors.As(err, &p) {
		t.Fatalf("the library did not panic: %v", errors.Unwrap(err))
	}
	_, err = w.value(t.Context(), "TENANT#a", "CONFIG#x")
	wantError(t, err, ErrUnavailable)
	heal()
	clock.advance(longestCooldown)
	eventually(t, "an answer", func() bool { got, err := w.value(t.Context(), "TENANT#a", "CONFIG#x"); return err == nil && got == "1" })
}

// TestCallersContext: the caller's own end is the caller's error, comes at
// once, and says nothing about the cluster.
func TestCallersContext(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{RequestTimeout: MaxRequestTimeout})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	w.want(t, "TENANT#a", "CONFIG#x", "1")
	defer w.Fail(daxtest.BatchGetItem, daxtest.Fault{Hang: true})()
	for range failuresToOpen {
		ctx, cancel := context.WithCancel(t.Context())
		calls := w.Calls(daxtest.BatchGetItem)
		ended := make(chan error, 1)
		go func() {
			_, err := w.value(ctx, "TENANT#a", "CONFIG#x")
			ended <- err
		}()
		eventually(t, "the request arrives", func() bool { return w.Calls(daxtest.BatchGetItem) > calls })
		start := time.Now()
		cancel()
		wantError(t, <-ended, context.Canceled)
		if took := time.Since(start); took > atOnce {
			t.Errorf("a canceled call took %v", took)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := w.value(ctx, "TENANT#a", "CONFIG#x")
	wantError(t, err, context.DeadlineExceeded)
	if opened(w.Client) != 0 {
		t.Error("callers that gave up opened the circuit")
	}
	w.DropConnections()
}

// TestClose closes under readers, twice, and reads afterwards.
func TestClose(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{})
	w.put(t, "TENANT#a", "CONFIG#x", "1")
	var wg sync.WaitGroup
	started := make(chan struct{}, 16)
	for range 16 {
		wg.Go(func() {
			for first := true; ; first = false {
				_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("a read during Close: %v", err)
					return
				}
				if first {
					started <- struct{}{}
				}
			}
		})
	}
	for range 16 {
		<-started
	}
	for range 4 {
		wg.Go(func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
	wantError(t, err, ErrClosed)
	wantError(t, err, ErrUnavailable)
	eventually(t, "every connection is closed", func() bool {
		for _, c := range w.Connections() {
			if c.Open {
				return false
			}
		}
		return true
	})
}

// TestStuckLibrary has calls that stay inside the library whatever their
// deadline is: they are left there, and the session is to be replaced.
func TestStuckLibrary(t *testing.T) {
	w := newNode(t, daxtest.Options{})
	var stuck atomic.Bool
	release := make(chan struct{})
	provider := aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		if stuck.Load() {
			<-release // whatever ctx says
		}
		return testCredentials.Retrieve(ctx)
	})
	e, _ := parseEndpoint(w.Endpoint())
	o := Options{Region: "us-east-1", Credentials: provider, RequestTimeout: 50 * time.Millisecond, refresh: time.Hour}
	s, err := connect(t.Context(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	stuck.Store(true)
	in, want, err := request(w.batch(key("TENANT#a", "CONFIG#x")))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, v, err := (&reader{ctx: t.Context(), session: s, in: in, want: want, timeout: o.RequestTimeout}).read()
	wantError(t, err, ErrUnavailable)
	if took := time.Since(start); took > atOnce || v != failed {
		t.Errorf("the call took %v, verdict %v", took, v)
	}
	eventually(t, "the session is to be replaced", s.isBroken)
	if s.close() {
		t.Error("a stuck session was closed")
	}
	close(release) // for the sake of the goroutines
}

// TestCloseWaitsForNoOneLong closes while a call hangs.
func TestCloseWaitsForNoOneLong(t *testing.T) {
	w := newWorld(t, daxtest.Options{}, Options{RequestTimeout: 300 * time.Millisecond})
	defer w.Fail(daxtest.Any, daxtest.Fault{Hang: true})()
	ended := make(chan error, 1)
	go func() {
		_, err := w.value(t.Context(), "TENANT#a", "CONFIG#x")
		ended <- err
	}()
	eventually(t, "the request arrives", func() bool { return w.Calls(daxtest.DefineKeySchema) > 0 })
	start := time.Now()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 300*time.Millisecond+closeTimeout+atOnce {
		t.Errorf("Close took %v", took)
	}
	wantError(t, <-ended, ErrUnavailable)
}
