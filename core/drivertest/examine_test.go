package drivertest

import (
	"context"
	"errors"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/memdriver"
)

// Examine comes to what Run comes to.
func TestExamineOfAGoodBackend(t *testing.T) {
	seen := map[string]Outcome{}
	err := Examine(t.Context(), Examination{Caps: goodCaps}, openGood, func(v Verdict) {
		seen[v.Case.Name] = v.Outcome
		if v.Outcome == Failed {
			t.Errorf("%s: %s", v.Case.Name, v.Reason)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Cases() {
		want := Passed
		if c.Missing(goodCaps, openGood(t)) != "" {
			want = Skipped
		}
		if seen[c.Name] != want {
			t.Errorf("%s: %v, want %v", c.Name, seen[c.Name], want)
		}
	}
}

func TestExamineNamesWhatIsWrong(t *testing.T) {
	wrong := edits(func(e *config.Entry) { e.Value = []byte(`"other"`) })
	open := func(t testing.TB) *Harness {
		_, _ = t.Output().Write([]byte("what the backend logged"))
		return &Harness{Backend: wrong(memdriver.New())}
	}
	var verdicts []Verdict
	only := func(c Case) bool {
		return c.Name == "read/latest" || c.Name == "close/again" || c.Name == "write/durable"
	}
	if err := Examine(t.Context(), Examination{Caps: goodCaps, Only: only, Patience: impatience}, open, func(v Verdict) { verdicts = append(verdicts, v) }); err != nil {
		t.Fatal(err)
	}
	if len(verdicts) != 3 {
		t.Fatalf("%d verdicts", len(verdicts))
	}
	for i, want := range []struct {
		outcome Outcome
		reason  string
	}{{Failed, "read/latest breaks the driver contract.\n    C4: Get returns"}, {Skipped, "not offered: Harness.Reopen"}, {Passed, ""}} {
		v := verdicts[i]
		if v.Outcome != want.outcome || !strings.Contains(v.Reason, want.reason) || v.Outcome != Skipped && v.Output != "what the backend logged" {
			t.Errorf("got %+v, want %v", v, want)
		}
	}
}

// A case that panics, or whose backend can not be opened, is a failure of that
// case, and what it opened is closed.
func TestExamineSurvives(t *testing.T) {
	var dir string
	only := func(c Case) bool { return c.Name == "read/missing" }
	for name, open := range map[string]Open{
		"panic":  func(t testing.TB) *Harness { dir = t.TempDir(); panic("the panic") },
		"fatal":  func(t testing.TB) *Harness { dir = t.TempDir(); t.Fatal("the fatal"); return nil },
		"setenv": func(t testing.TB) *Harness { dir = t.TempDir(); t.Setenv("A", "the setenv"); return nil },
	} {
		var got Verdict
		if err := Examine(t.Context(), Examination{Only: only}, open, func(v Verdict) { got = v }); err != nil {
			t.Fatal(err)
		}
		if got.Outcome != Failed || !strings.Contains(strings.ToLower(got.Reason), name) {
			t.Errorf("%s: %+v", name, got)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: its folder: %v", name, err)
		}
	}
}

func TestExamineEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reported := 0
	err := Examine(ctx, Examination{Caps: goodCaps}, func(t testing.TB) *Harness { cancel(); return openGood(t) }, func(Verdict) { reported++ })
	if !errors.Is(err, context.Canceled) || reported > 0 {
		t.Errorf("%v, %d reported", err, reported)
	}
}

// A method that examinee does not have itself would be that of a nil TB.
func TestExamineeHasEveryMethod(t *testing.T) {
	own, tb := reflect.TypeFor[*examinee](), reflect.TypeFor[testing.TB]()
	for i := range tb.NumMethod() {
		m := tb.Method(i)
		if !m.IsExported() {
			continue
		}
		found, _ := own.MethodByName(m.Name)
		if file, _ := runtime.FuncForPC(found.Func.Pointer()).FileLine(found.Func.Pointer()); !strings.HasSuffix(file, "examine.go") {
			t.Errorf("%s is promoted (%s)", m.Name, file)
		}
	}
}
