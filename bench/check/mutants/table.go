package main

// cacheDir and storeDir are the packages that most of the table is about.
const (
	cacheDir = "core/cache"
	storeDir = "core/store"
)

// table are the seeded bugs. Each breaks one thing that the protocol of package
// cache depends on.
var table = []Mutant{
	{
		Name: "a flight from before an invalidation is boarded",
		File: "core/cache/flight.go", Old: "return f.born >= d.born && f.after", New: "return f.after",
		Package: cacheDir, Test: "TestNobodyBoardsAnOldFlight",
	},
	{
		Name: "a refresh shares a read that began before it",
		File: "core/cache/flight.go", Old: "&& f.order > d.order &&", New: "&&",
		Package: cacheDir, Test: "TestRenewsAreCoalesced",
	},
	{
		Name: "the clock is read behind the store",
		File: "core/cache/flight.go", Old: "rec, err := b.judged(id, got, f.born, f.after, exact)",
		New:     "rec, err := b.judged(id, got, b.cache.clock.now(), f.after, exact)",
		Package: cacheDir, Test: "TestOvertakenFillOfAnUncountedStore",
	},
	{
		Name: "a write's clock is read behind the store",
		File: "core/cache/backend.go", Old: "	b.wrote(b.record(written, false, born, began, true), r.IdempotencyKey)",
		New:     "	b.wrote(b.record(written, false, b.cache.clock.now(), began, true), r.IdempotencyKey)",
		Package: cacheDir, Test: "TestWritesThatCross",
	},
	{
		Name: "identity is not compared on a hit",
		File: "core/cache/backend.go", Old: "if !ok || !r.is(b, id) {", New: "if !ok {",
		Package: cacheDir, Test: "TestIdentityIsCompared",
	},
	{
		Name: "the tenant is left out of the hash, and identity not compared",
		File: "core/cache/record.go", Old: "return r.site.tenant == id.Tenant && r.site.service", New: "return r.site.service",
		Package: cacheDir, Test: "TestIdentityIsCompared",
	},
	{
		Name: "what is held of one store is used for the one that took its place",
		File: "core/cache/backend.go", Old: "c.spaces++", New: "c.spaces = 1",
		Package: cacheDir, Test: "TestSwapToAnotherStore",
	},
	{
		Name: "a backend counts as unused while a call is under way in it",
		File: "core/cache/mount.go", Old: "	if u.n == 0 {\n", New: "	if u.n >= 0 {\n",
		Package: cacheDir, Test: "TestR10AckedThroughTheFormerBackend",
	},
	{
		Name: "nothing but age decides whether a record is valid",
		File: "core/cache/read.go", Old: "return r.born >= need && (r.flags.has(isExact)", New: "return (r.flags.has(isExact)",
		Package: cacheDir, Test: "TestOvertakenFillOfAnUncountedStore",
	},
	{
		Name: "a write is acknowledged before the invalidation",
		File: "core/cache/backend.go", Old: "	b.wrote(b.record(written, false, born, began, true), r.IdempotencyKey)",
		New:     "	go b.wrote(b.record(written, false, born, began, true), r.IdempotencyKey)",
		Package: cacheDir, Test: "TestPutIsVisibleAtItsAck",
	},
	{
		Name: "a value is installed although another invalidation came between",
		File: "core/cache/clock.go", Old: "clean = c.need(s) <= since", New: "clean = true",
		Package: cacheDir, Test: "TestCrossedRenewsOfAnUncountedStore",
	},
	{
		Name: "a write of unknown outcome leaves what is held",
		File: "core/cache/backend.go", Old: "	b.cache.clock.invalidate(b.spot(id), 0)\n}", New: "}",
		Package: cacheDir, Test: "TestWriteOfUnknownOutcome",
	},
	{
		Name: "an absence outlives an invalidation",
		File: "core/cache/read.go", Old: "return r.born >= need && (r.flags.has(isExact)", New: "return (r.flags.has(isAbsent) || r.born >= need) && (r.flags.has(isExact)",
		Package: cacheDir, Test: "TestOvertakenFillOfAnUncountedStore",
	},
	{
		Name: "a refresh invalidates before the store has answered",
		File: "core/cache/refresh.go", Old: "	began := b.cache.since()\n	r, err := b.fetch(", New: "	began := b.cache.since()\n	b.cache.clock.invalidate(b.spot(id), 0)\n	r, err := b.fetch(",
		Package: cacheDir, Test: "TestRenewOfAStoreThatIsAway",
	},
	{
		Name: "a secret is kept",
		File: "core/cache/backend.go", Old: "if !b.keeps() || r.entry.Secret ||", New: "if !b.keeps() ||",
		Package: cacheDir, Test: "TestSecretsAreNotKept",
	},
	{
		Name: "a secret is kept for watchers",
		File: "core/cache/view.go", Old: "if e.entry.Secret || len(", New: "if len(",
		Package: cacheDir, Test: "TestWatchOfSecrets",
	},
	{
		Name: "floors are ignored",
		File: "core/cache/flight.go", Old: "if !rec.absent && b.cache.floors.forbids(", New: "if false && b.cache.floors.forbids(",
		Package: cacheDir, Test: "TestFloor",
	},
	{
		Name: "a deletion takes the floor away",
		File: "core/cache/floor.go", Old: "if absent && forgets ||", New: "if absent ||",
		Package: cacheDir, Test: "TestFloorOfADeletion",
	},
	{
		Name: "an absence is a floor though a write overtook it",
		File: "core/cache/floor.go", Old: "if known && was.at >= born && !was.gone {", New: "if false {",
		Package: cacheDir, Test: "TestOvertakenAbsenceIsNoFloor",
	},
	{
		Name: "an old copy of an eventual store counts as the truth",
		File: "core/cache/read.go", Old: "exact: b.eventual && need > b.cache.clock.settled.Load()}", New: "exact: false}",
		Package: cacheDir, Test: "TestTruthBehindAnAckOfAnEventualStore",
	},
	{
		Name: "what stands in for a store that is away is not marked",
		File: "core/cache/read.go", Old: "held.age(b.cache.since()), state)", New: "held.age(b.cache.since()), config.StateFresh)",
		Package: cacheDir, Test: "TestAges",
	},
	{
		Name: "an outdated answer does not say so",
		File: "core/cache/read.go", Old: "a.Outdated = state == config.StateStale", New: "a.Outdated = false",
		Package: cacheDir, Test: "TestOutdatedAbsence",
	},
	{
		Name: "what is outdated passes for young",
		File: "core/cache/read.go", Old: "case valid && age < b.policy.MaxStaleness", New: "case (valid || true) && age < b.policy.MaxStaleness",
		Package: cacheDir, Test: "TestOutdatedAbsence",
	},
	{
		Name: "an outdated absence is told as an absence",
		File: "core/store/call.go", Old: "if r.outdated {", New: "if false {",
		Package: storeDir, Test: "TestOutdatedAbsence",
	},
	{
		Name: "an old answer stands in for the truth that was asked for",
		File: "core/cache/read.go", Old: "case w.Bounded || age >= b.policy.StaleIfError:", New: "case age >= b.policy.StaleIfError:",
		Package: cacheDir, Test: "TestStoreIsAway",
	},
	{
		Name: "one caller's giving up fails the others",
		File: "core/cache/flight.go", Old: "ctx: context.WithoutCancel(ctx)}", New: "ctx: ctx}",
		Package: cacheDir, Test: "TestGivingUpAlone",
	},
	{
		Name: "a watcher's place is taken behind its snapshot",
		File: "core/cache/watch.go", Old: "	w.window, w.whole = w.view.last, true\n", New: "	w.window, w.whole = w.view.last, true\n	at = w.view.last\n",
		Package: cacheDir, Test: "TestWatchMissesNothingAtItsBeginning",
	},
	{
		Name: "whoever resumes is told the snapshot's last change again",
		File: "core/cache/watch.go", Old: "	w.untold = true\n", New: "	w.untold = false\n",
		Package: cacheDir, Test: "TestWatchRepeatsNothingOfItsBeginning",
	},
	{
		Name: "a deletion during a view's first list is lost",
		File: "core/cache/view.go", Old: "was.absent || !known && v.listed > 0", New: "was.absent || !known",
		Package: cacheDir, Test: "TestWatchTellsADeletionAtItsBeginning",
	},
	{
		Name: "a snapshot is trusted though the view was not exact",
		File: "core/cache/watch.go", Old: "exact = exact || at == w.view.last", New: "exact = true",
		Package: cacheDir, Test: "TestWatchTellsNothingThatWentBeforeItsBeginning",
	},
	{
		Name: "a position of another run is accepted",
		File: "core/cache/watch.go", Old: "if v.prefix == r.KeyPrefix && v.name == name {", New: `if v.prefix == r.KeyPrefix && name != "" {`,
		Package: cacheDir, Test: "TestPositionOfAnotherRun",
	},
	{
		Name: "a position of another tenant is accepted",
		File: "core/cache/watch.go", Old: `return []string{"view", b.now.Load().policy.Prefix, r.Tenant.String(), r`, New: `return []string{"view", b.now.Load().policy.Prefix, "", r`,
		Package: cacheDir, Test: "TestWatchResumes",
	},
	{
		Name: "a slow watcher is skipped",
		File: "core/cache/view.go", Old: "	case n > v.last || n+1 < first:\n		return nil, 0, nil, false\n", New: "	case n > v.last:\n		return nil, 0, nil, false\n	case n+1 < first:\n		n = first - 1\n",
		Package: cacheDir, Test: "TestSlowWatcher",
	},
	{
		Name: "a refresh tells no watchers",
		File: "core/cache/backend.go", Old: "	b.views.changed(r, clean)\n	return clean\n", New: "	return clean\n",
		Package: cacheDir, Test: "TestWatchOfAnUnwatchableStore",
	},
	{
		Name: "one tenant takes the room of all",
		File: "core/cache/share.go", Old: "	for q.used+cost > limit {", New: "	for false {",
		Package: cacheDir, Test: "TestTenantShare",
	},
	{
		Name: "a refresh without a least version does for one with it",
		File: "core/store/refresh.go", Old: "if t.MinVersion == 0 {", New: "if true {",
		Package: storeDir, Test: "TestRefreshAwaits",
	},
	{
		Name: "a least version is ignored",
		File: "core/store/read.go", Old: "if w.MinVersion > 0 {", New: "if false {",
		Package: storeDir, Test: "TestMinVersionComes",
	},
}
