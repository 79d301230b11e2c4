package boltstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/order/internal/orders"
	"github.com/tagstore/tagstore/services/order/internal/orders/boltstore"
	"github.com/tagstore/tagstore/services/order/internal/orders/storetest"
)

// writerFile, when set, makes the test binary a process that creates orders in
// that file and prints each id once it is acknowledged, until it is killed.
const writerFile = "BOLTSTORE_TEST_WRITER"

func TestMain(m *testing.M) {
	if file := os.Getenv(writerFile); file != "" {
		os.Exit(write(file))
	}
	goleak.VerifyTestMain(m)
}

func write(file string) int {
	s, err := boltstore.Open(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	tenant, err := config.ParseTenant("acme-corp")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		now := time.Now()
		o := orders.Order{ID: orders.NewID(now), Tenant: tenant, CreatedAt: now}
		if _, _, err := s.Create(context.Background(), o, orders.Once{Key: o.ID.String()}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprintln(os.Stdout, o.ID)
	}
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, place string) orders.Store {
		t.Helper()
		s, err := boltstore.Open(filepath.Join(place, "orders.db"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// What was acknowledged is there after kill -9, and the file still opens.
func TestAcknowledgedOrdersSurviveKill(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "orders.db")
	const rounds, least = 5, 10
	var acked []orders.ID
	for range rounds {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), writerFile+"="+file)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			id, ok := orders.ParseID(lines.Text())
			if !ok {
				t.Fatalf("the writer printed %q", lines.Text())
			}
			acked = append(acked, id)
			if n == least {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
	}
	if len(acked) < rounds*least {
		t.Fatalf("only %d orders were acknowledged", len(acked))
	}
	s, err := boltstore.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, id := range acked {
		if _, err := s.Get(t.Context(), storetest.Tenant(t, "acme-corp"), id); err != nil {
			t.Errorf("an acknowledged order is lost: %v", err)
		}
	}
}

func TestOpenSaysWhatToMend(t *testing.T) {
	dir := t.TempDir()
	held, err := boltstore.Open(filepath.Join(dir, "held.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not a database ", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign.db")
	db, err := bbolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("somebody else's"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path, want string
		code       config.Code
	}{
		"in use":    {filepath.Join(dir, "held.db"), "is in use by another process", config.FailedPrecondition},
		"no folder": {filepath.Join(dir, "none", "x.db"), "folder that does not exist", config.FailedPrecondition},
		"a folder":  {dir, "can not be opened", config.FailedPrecondition},
		"garbage":   {garbage, "damaged", config.DataLoss},
		"foreign":   {foreign, "something other than orders", config.FailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := boltstore.Open(tc.path)
			if err == nil {
				_ = s.Close()
			}
			var e *config.Error
			if !errors.As(err, &e) || e.Code != tc.code || !strings.Contains(e.Message, tc.want) || e.Hint == "" {
				t.Errorf("Open returned %v, want code %v, %q and a hint", err, tc.code, tc.want)
			}
		})
	}
	info, err := os.Stat(filepath.Join(dir, "held.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", info.Mode(), err)
	}
}

// On a full disk nothing is acknowledged and nothing that was is lost; with
// room again everything goes on. A limit on file sizes stands for the disk.
func TestFullDisk(t *testing.T) {
	s, err := boltstore.Open(filepath.Join(t.TempDir(), "orders.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	signal.Ignore(syscall.SIGXFSZ)
	var unlimited syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
			t.Fatal(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 200 << 10, Max: unlimited.Max}); err != nil {
		t.Fatal(err)
	}
	var acked []orders.Order
	var refused orders.Order
	for err == nil {
		refused = storetest.NewOrder(t, "acme-corp", len(acked))
		refused.Reference = strings.Repeat("x", 4<<10)
		if _, _, err = s.Create(t.Context(), refused, orders.Once{Key: refused.ID.String()}); err == nil {
			acked = append(acked, refused)
		}
		if len(acked) > 1000 {
			break
		}
	}
	_, _, again := s.Create(t.Context(), refused, orders.Once{Key: refused.ID.String()})
	restore()
	if !errors.Is(err, config.Unavailable) || !errors.Is(again, config.Unavailable) || len(acked) == 0 {
		t.Fatalf("after %d orders Create returned %v, then %v; want code unavailable", len(acked), err, again)
	}
	page, err := s.List(t.Context(), refused.Tenant, orders.ID{}, len(acked)+1)
	if err != nil || len(page) != len(acked) {
		t.Errorf("%d orders are listed, %v; %d were acknowledged", len(page), err, len(acked))
	}
	if _, _, err := s.Create(t.Context(), refused, orders.Once{Key: refused.ID.String()}); err != nil {
		t.Errorf("with room again Create returned %v", err)
	}
}

// A record that was put under another tenant's key is not that tenant's.
func TestForeignRecordIsDamage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.db")
	s, err := boltstore.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	o := storetest.NewOrder(t, "acme-corp", 0)
	if _, _, err := s.Create(t.Context(), o, orders.Once{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := func(tenant string) []byte {
		return []byte(config.EncodeScope(storetest.Tenant(t, tenant), config.Service{}) + o.ID.String())
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("orders"))
		return b.Put(key("globex-inc"), b.Get(key("acme-corp")))
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = boltstore.Open(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Get(t.Context(), storetest.Tenant(t, "globex-inc"), o.ID); !errors.Is(err, config.DataLoss) {
		t.Errorf("Get returned %v, want code data_loss", err)
	}
	if _, err := s.List(t.Context(), storetest.Tenant(t, "globex-inc"), orders.ID{}, 1); !errors.Is(err, config.DataLoss) {
		t.Errorf("List returned %v, want code data_loss", err)
	}
}
