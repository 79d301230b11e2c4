package daxread

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPlainNumber(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0": "0", "0E5": "0", "0E-5": "0", "7": "7", "-7": "-7", "+7": "7", "007": "7",
		"325E-2": "3.25", "-325E-2": "-3.25", "325e-2": "3.25", "325E-3": "0.325", "325E-5": "0.00325", "3250E-3": "3.25", "3.25": "3.25",
		"1E3": "1000", "1E+3": "1000", "1.5E1": "15", "1.5E3": "1500", "100E-2": "1", "-5E-1": "-0.5",
		"1E125":  "1" + strings.Repeat("0", 125),
		"1E-130": "0." + strings.Repeat("0", 129) + "1",
		"12345678901234567890123456789012345678E-37": "1.2345678901234567890123456789012345678",
	} {
		if got, err := plainNumber(in); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "-", "+", ".", "E5", "1E", "1E+", "--1", "+-1", "1.2.3", "NaN", "Infinity", "0x10", "1_000", "1E1.5", " 1", "1E301", "1E-301",
		"1E999999999999999999999", strings.Repeat("9", maxNumberText+1),
	} {
		if got, err := plainNumber(in); err == nil {
			t.Errorf("%q became %q", in, got)
		}
	}
}

// TestPlainNumberIsExact compares with exact arithmetic.
func TestPlainNumberIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.StringMatching(`-?[0-9]{1,38}(\.[0-9]{1,10})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		got, err := plainNumber(in)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := new(big.Rat).SetString(in)
		have, ok := new(big.Rat).SetString(got)
		if !ok || want.Cmp(have) != 0 {
			t.Fatalf("%q became %q", in, got)
		}
		if again, err := plainNumber(got); err != nil || again != got {
			t.Fatalf("%q, once more, became %q, %v", got, again, err)
		}
	})
}
