package check

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/tagstore/tagstore/bench/check/history"
)

var _ = history.Never

func TestTry(t *testing.T) {
	d, _ := time.ParseDuration(os.Getenv("D"))
	seeds, _ := strconv.Atoi(os.Getenv("SEEDS"))
	var all []Result
	first, _ := strconv.Atoi(os.Getenv("FIRST"))
	for seed := max(first, 1); seed <= seeds; seed++ {
		r, err := InProcess(t.Context(), Subject(os.Getenv("ONLY")), 3, uint64(seed), d)
		if err != nil {
			t.Error(err)
			continue
		}
		all = append(all, r)
		fmt.Println(seed, r.Verdict)
		if r.Guilty() {
			break
		}
	}
	Print(os.Stdout, all)
}
