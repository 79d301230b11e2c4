package drivertest

import "github.com/tagstore/tagstore/core/driver"

// What a case may need.
var (
	batch       = Caps{Batch: true}
	history     = Caps{History: true}
	watching    = Caps{Watch: true}
	idempotence = Caps{Idempotent: true}
	limited     = Caps{MaxValue: 1}
	refreshing  = Caps{Refresh: true}
)

// The caveats, one by one.
var (
	loose        = driver.Caveats{LooseCompareAndSet: true}
	forgetful    = driver.Caveats{PermanentDelete: true}
	unattributed = driver.Caveats{Unattributed: true}
	inferred     = driver.Caveats{InferredType: true}
	filled       = driver.Caveats{NonEmpty: true}
	textual      = driver.Caveats{TextOnly: true}
	eventual     = driver.Caveats{EventualReads: true}
)

// cases is the suite. Every clause has at least one row.
var cases = []Case{
	{Name: "isolation/foreign-tenant", Clause: "C1", run: foreignTenant},
	{Name: "isolation/foreign-service", Clause: "C1", run: foreignService},
	{Name: "isolation/crafted-ids", Clause: "C1", run: craftedIDs},
	{Name: "isolation/sibling-list", Clause: "C1", run: siblingList},
	{Name: "isolation/shared-tenant", Clause: "C1", run: sharedTenant},
	{Name: "isolation/foreign-writes", Clause: "C1", run: foreignWrites},
	{Name: "isolation/foreign-versions", Clause: "C1", Needs: history, run: foreignVersions},
	{Name: "isolation/foreign-batch", Clause: "C1", Needs: batch, run: foreignBatch},
	{Name: "isolation/foreign-watch", Clause: "C1", Needs: watching, run: foreignWatch},
	{Name: "identity/case", Clause: "C2", run: keyCase},
	{Name: "identity/similar-keys", Clause: "C2", run: similarKeys},
	{Name: "identity/long-keys", Clause: "C2", run: longKeys},

	{Name: "read/missing", Clause: "C3", run: missing},
	{Name: "read/missing-text", Clause: "C3", run: missingText},
	{Name: "read/latest", Clause: "C4", run: latest},
	{Name: "read/metadata", Clause: "C4", run: metadata},
	{Name: "read/binary-value", Clause: "C4", Unless: textual, run: binaryValue},
	{Name: "read/versions", Clause: "C5", run: versions},
	{Name: "read/empty-value", Clause: "C6", Unless: filled, run: emptyValue},

	{Name: "list/order", Clause: "C7", run: listOrder},
	{Name: "list/pages", Clause: "C7", run: listPages},
	{Name: "list/prefix", Clause: "C7", run: listPrefix},
	{Name: "list/live", Clause: "C7", run: listLive},
	{Name: "list/while-changing", Clause: "C7", run: listWhileChanging},
	{Name: "list/page-size", Clause: "C8", run: pageSize},
	{Name: "list/page-bytes", Clause: "C8", run: pageBytes},
	{Name: "token/forged", Clause: "C9", run: forgedToken},
	{Name: "token/foreign", Clause: "C9", run: foreignToken},
	{Name: "token/another-call", Clause: "C9", Needs: history, run: tokenOfAnotherCall},

	{Name: "write/version-count", Clause: "C10", Unless: forgetful, run: versionCount},
	{Name: "write/race-create", Clause: "C11", run: raceCreate},
	{Name: "write/race-update", Clause: "C11", Unless: loose, run: raceUpdate},
	{Name: "write/race-delete", Clause: "C11", Unless: driver.Caveats{LooseCompareAndSet: true, PermanentDelete: true}, run: raceDelete},
	{Name: "write/race-count", Clause: "C11", Unless: loose, run: raceCount},
	{Name: "write/put-expect", Clause: "C12", run: putExpect},
	{Name: "write/delete-expect", Clause: "C12", run: deleteExpect},
	{Name: "write/absent-after-delete", Clause: "C12", Unless: forgetful, run: absentAfterDelete},
	{Name: "write/visible", Clause: "C13", run: visible},
	{Name: "write/visible-to-peer", Clause: "C13", NeedsPeer: true, Unless: eventual, run: visibleToPeer},
	{Name: "write/durable", Clause: "C13", NeedsReopen: true, run: durable},
	{Name: "write/answer", Clause: "C14", run: writeAnswer},
	{Name: "write/time-order", Clause: "C14", run: timeOrder},
	{Name: "write/delete-missing", Clause: "C15", run: deleteMissing},
	{Name: "write/history-after-delete", Clause: "C15", Needs: history, Unless: forgetful, run: historyAfterDelete},
	{Name: "write/max-value", Clause: "C16", Needs: limited, run: maxValue},
	{Name: "write/oversize", Clause: "C16", Needs: limited, run: oversize},
	{Name: "write/revisions", Clause: "C17", run: revisions},

	{Name: "memory/in", Clause: "C18", run: memoryIn},
	{Name: "memory/out", Clause: "C18", run: memoryOut},

	{Name: "context/canceled-before", Clause: "C19", run: cancelBefore},
	{Name: "context/deadline-before", Clause: "C19", run: deadlineBefore},
	{Name: "context/canceled-during", Clause: "C19", run: cancelDuring},
	{Name: "concurrency/everything", Clause: "C20", run: concurrently},
	{Name: "close/again", Clause: "C21", run: closeAgain},
	{Name: "close/later-calls", Clause: "C21", run: closeEndsCalls},
	{Name: "close/with-watch", Clause: "C21", Needs: watching, run: closeWithWatch},

	{Name: "capabilities/declared", Clause: "C22", run: declared},
	{Name: "capabilities/declared-works", Clause: "C22", run: declaredWorks},
	{Name: "capabilities/undeclared", Clause: "C22", run: undeclared},
	{Name: "capabilities/ping", Clause: "C22", Needs: Caps{Ping: true}, run: ping},
	{Name: "capabilities/size", Clause: "C22", Needs: Caps{Size: true}, run: size},

	{Name: "batch/order", Clause: "C23", Needs: batch, run: batchOrder},
	{Name: "batch/partial", Clause: "C23", Needs: batch, run: batchPartial},
	{Name: "batch/empty", Clause: "C23", Needs: batch, run: batchEmpty},
	{Name: "batch/large", Clause: "C23", Needs: batch, run: batchLarge},

	{Name: "history/order", Clause: "C24", Needs: history, run: historyOrder},
	{Name: "history/pages", Clause: "C24", Needs: history, run: historyPages},
	{Name: "history/missing", Clause: "C24", Needs: history, run: historyMissing},
	{Name: "history/while-writing", Clause: "C24", Needs: history, run: historyWhileWriting},

	{Name: "watch/snapshot", Clause: "C25", Needs: watching, run: watchSnapshot},
	{Name: "watch/stream", Clause: "C25", Needs: watching, run: watchStream},
	{Name: "watch/prefix", Clause: "C25", Needs: watching, run: watchPrefix},
	{Name: "watch/gap-free", Clause: "C25", Needs: watching, run: gapFree},
	{Name: "watch/resume", Clause: "C26", Needs: watching, run: watchResume},
	{Name: "watch/positions", Clause: "C26", Needs: watching, run: watchPositions},
	{Name: "watch/forged-position", Clause: "C26", Needs: watching, run: forgedPosition},
	{Name: "watch/foreign-position", Clause: "C26", Needs: watching, run: foreignPosition},
	{Name: "watch/out-of-range", Clause: "C26", Needs: watching, NeedsChanges: true, run: outOfRange},
	{Name: "watch/one-at-a-time", Clause: "C27", Needs: watching, run: oneAtATime},
	{Name: "watch/emit-error", Clause: "C27", Needs: watching, run: emitError},
	{Name: "watch/cancel", Clause: "C27", Needs: watching, run: watchCancel},
	{Name: "watch/slow-receiver", Clause: "C27", Needs: watching, run: slowReceiver},

	{Name: "idempotency/replay", Clause: "C28", Needs: idempotence, run: replay},
	{Name: "idempotency/mismatch", Clause: "C28", Needs: idempotence, run: replayMismatch},
	{Name: "idempotency/tenants", Clause: "C28", Needs: idempotence, run: replayTenants},
	{Name: "idempotency/refused", Clause: "C28", Needs: idempotence, run: replayRefused},
	{Name: "idempotency/race", Clause: "C28", Needs: idempotence, run: replayRace},
	{Name: "idempotency/durable", Clause: "C28", Needs: idempotence, NeedsReopen: true, run: replayDurable},

	{Name: "refresh/like-batch", Clause: "C29", Needs: refreshing, run: refreshLikeBatch},
	{Name: "refresh/from-the-source", Clause: "C29", Needs: refreshing, NeedsPeer: true, run: refreshFromSource},
	{Name: "refresh/sticks", Clause: "C29", Needs: refreshing, NeedsPeer: true, run: refreshSticks},

	{Name: "caveats/declared", Clause: "C30", run: caveatsDeclared},
	{Name: "caveats/loose-race", Clause: "C30", Needs: Caps{Caveats: loose}, run: looseRace},
	{Name: "caveats/permanent-delete", Clause: "C30", Needs: Caps{Caveats: forgetful}, run: permanentDelete},
	{Name: "caveats/unattributed", Clause: "C30", Needs: Caps{Caveats: unattributed}, run: unattributedIsTrue},
	{Name: "caveats/inferred-type", Clause: "C30", Needs: Caps{Caveats: inferred}, run: inferredType},
	{Name: "caveats/non-empty", Clause: "C30", Needs: Caps{Caveats: filled}, run: nonEmpty},
	{Name: "caveats/text-only", Clause: "C30", Needs: Caps{Caveats: textual}, run: textOnly},
	{Name: "caveats/own-writes", Clause: "C30", Needs: Caps{Caveats: eventual}, NeedsPeer: true, run: ownWrites},
}
