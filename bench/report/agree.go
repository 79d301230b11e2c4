package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/tagstore/tagstore/bench/spread"
)

// agree compares the ratios of two recorded runs by the wider of the spreads that
// they state of a suite. What only one of them has is a disagreement, too: a ratio that is
// dropped in silence is one that nobody misses.
func agree(paths []string, out io.Writer) error {
	if len(paths) != 2 {
		return errors.New("name the results of two runs: report -agree before.json after.json")
	}
	before, err := readJSON(paths[0])
	if err != nil {
		return err
	}
	after, err := readJSON(paths[1])
	if err != nil {
		return err
	}
	if max(before.deviation(0), after.deviation(0)) == 0 {
		return errors.New("neither run says how far it is to be trusted: measure more than once, as with COUNT=3")
	}
	names := slices.Clone(before.names)
	for _, name := range after.names {
		if before.found[name] == nil {
			names = append(names, name)
		}
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	compared, apart := 0, 0
	var differences []float64
	for _, name := range names {
		suite := suiteOf(name)
		pooled := max(before.deviation(suite), after.deviation(suite))
		units := map[string]bool{}
		for _, f := range []figures{before.found[name], after.found[name]} {
			for unit := range f {
				units[unit] = isRatio(unit)
			}
		}
		for _, unit := range slices.Sorted(maps.Keys(units)) {
			if !units[unit] {
				continue
			}
			compared++
			a, b := before.found[name].of(unit), after.found[name].of(unit)
			if a == nil || b == nil {
				apart++
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\tonly one run has it\t\n", name, unit, orDash(cell(unit, a)), orDash(cell(unit, b)))
				continue
			}
			by, might, same := spread.Agree(*a, *b, pooled)
			if !same {
				apart++
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\tapart by %.0f %%, stated %.0f %%\t\n", name, unit, cell(unit, a), cell(unit, b), 100*by, 100*might)
			}
			differences = append(differences, by)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d of %d ratios agree within the spread that their suite states, or their own repetitions.\n", compared-apart, compared)
	if len(differences) > 0 {
		slices.Sort(differences)
		fmt.Fprintf(out, "Half of them differ by no more than %.0f %%, nine in ten by no more than %.0f %%.\n",
			100*differences[(len(differences)-1)/2], 100*differences[(9*len(differences)-1)/10])
	}
	if apart > 0 {
		return fmt.Errorf("%d of %d ratios do not agree", apart, compared)
	}
	return nil
}
