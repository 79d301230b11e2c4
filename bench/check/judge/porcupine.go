package judge

import (
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tagstore/tagstore/bench/check/history"
)

// step is one operation on the model of one ID at one replica.
type step struct {
	place   int // replica and ID
	version uint64
	floor   uint64 // that an acknowledgement makes sure of
}

// model is a floor: an acknowledgement raises it, and nothing may be below it.
// It says nothing of what may lie above.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byPlace := map[int]int{}
		var parts [][]porcupine.Operation
		for _, op := range history {
			place := op.Input.(step).place
			i, ok := byPlace[place]
			if !ok {
				i = len(parts)
				byPlace[place] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], op)
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, _ any) (bool, any) {
		floor, s := state.(uint64), input.(step)
		if s.version < floor {
			return false, state
		}
		return true, max(floor, s.floor)
	},
}

// porcupine asks for an order of the operations of each ID at each replica
// that fits their times, and compares the answer with that of C1.
func (j *judge) porcupine(patience time.Duration) {
	var steps []porcupine.Operation
	add := func(op *history.Op, replica int, s step) {
		s.place = replica*len(j.h.IDs) + int(op.ID)
		steps = append(steps, porcupine.Operation{ClientId: int(op.Session), Input: s, Call: op.Call, Return: op.Return})
	}
	for i := range j.h.Ops {
		op := &j.h.Ops[i]
		l := j.lines[op.ID]
		switch {
		case op.Return == history.Never:
		case op.Kind == history.Get:
			// What may lag is not linearizable, nor meant to be.
			if op.Mark != history.Stale && op.Lag == 0 {
				add(op, int(op.Replica), step{version: l.shown(op)})
			}
		default:
			for r := range j.h.Replicas {
				if op.Acked.Has(r) {
					add(op, r, step{version: l.shown(op), floor: l.acked(op)})
				}
			}
		}
	}
	began := time.Now()
	result := porcupine.CheckOperationsTimeout(model, steps, patience)
	j.v.Porcupine, j.v.PorcupineTook = string(result), time.Since(began)
	if result != porcupine.Unknown && (result == porcupine.Ok) != (j.v.Breaches[C1] == 0) {
		j.breach(Disagreement, "porcupine says %s, C1 was broken %d times", result, j.v.Breaches[C1])
	}
}
