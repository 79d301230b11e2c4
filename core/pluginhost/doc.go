// Package pluginhost runs storage plugins: one process each, started,
// configured, supervised and ended, and presented as a driver.Backend that
// outlives its restarts.
//
// # What a Process guarantees
//
// It is published only behind a handshake, a health check, Describe and
// Configure, all within Options.StartTimeout. Each launch is a fresh process
// with a fresh connection, socket folder and generation number.
//
// Every call has a deadline: the caller's, or Plugin.CallTimeout if that is
// sooner. Watch alone has none but the caller's; it ends with the process.
//
// When the process dies, or its connection breaks, or it does not answer three
// health checks in a row, which takes less than four seconds, it is killed with
// its whole process group and started again: a plugin that had been answering
// calls within a second, one that does not come up with delays that grow to 30 s
// (half of it chance), until 60 s of health reset them. Calls that come meanwhile
// wait, within their deadline.
//
// A plugin that fails five times within ten minutes, with no healthy minute in
// between, is given up: StateFailed. Nothing is started any more, calls are
// FailedPrecondition at once, and no other plugin notices. Rearm ends that, and
// so does a Process that takes its place.
//
// A Get, BatchGet, List, History, Ping or Size that a dead process left
// unanswered is sent once more, to its successor, within the same deadline. So is
// a Put or Delete with an idempotency key, if the plugin declares that it keeps
// them. No other write ever is: it is OutcomeUnknown if the request may have
// reached the plugin and Unavailable if it did not. A Watch ends with Unavailable; the
// caller resumes it from the last position that it saw. Errors that the plugin
// itself answered pass through as they are and cause no restart.
//
// Calls that have one answer go over streams that stay open if the plugin says
// that it can exchange, and proves it with one Describe while it is launched;
// else, and where a call does not fit, each is one of its own. Nothing above
// depends on which.
//
// Each call names the instance that it is for in the metadata
// "x-tagstore-instance", beside whatever else is there.
//
// # A plugin that somebody else runs
//
// With Plugin.Address there is a connection in place of a process: the guarantees
// above hold for it, and it is what is given up and made again, for ever and
// within a second each time. The process is never signalled; Start waits for it,
// within Options.StartTimeout. Only this user's process, or root's, is talked to.
// Each connection is configured before it is published, which the same process
// takes for what it is and a new one needs.
//
// # Answers
//
// What a plugin answers is decoded as hostile: an answer that breaks the
// protocol is Internal and none of it is used. Whether an entry is the one that
// was asked for is for package store to check, on every backend alike.
//
// # What a Host guarantees
//
// Apply makes its plugins those of another manifest, all or none. What has not
// changed keeps its process; all else is started beside what runs, and calls are
// sent to it only when all of it serves. Nothing that calls wait for is locked
// meanwhile. A process whose place was taken ends when its last call has.
//
// # What keeps plugins and tenants apart
//
// Of each plugin Plugin.Concurrency calls run at once and 16 times as many wait
// for their turn; one more is ResourceExhausted at once. A tenant may take a
// slot, or a place in the queue, while it holds fewer than are free: one alone
// gets half, and another's call finds something left. Slots that come free go
// round the tenants. Watches are bounded apart from that, by the same rule.
//
// When half of the calls of five seconds, and ten of them at least, found the
// plugin's store out of reach or no answer in time, further ones are Unavailable
// at once. Every half second one is let through, and when one is answered all
// are. What counts is what the plugin did: not its other errors, nor a caller
// that gave up or had much less patience than CallTimeout, nor the end of the
// process, which is the supervisor's. A Watch is never refused so.
//
// # Which program runs
//
// Outside development (Options.Dev) a program is refused that somebody else than
// root and this user can write to or replace.
//
// Of one with a Plugin.SHA256, the bytes that were verified are the bytes that
// run: on Linux they are read once into a sealed file without a name while they
// are hashed, and each launch, the first and every later one, executes that. What
// has become of the file at Path meanwhile does not matter. A pinned script is
// handed to its interpreter as /proc/self/fd/3: it does not find what lies beside
// it, and should be a single file, such as a zipapp of Python. The digest covers
// that file and not its interpreter. In ps and /proc the process has the right
// arguments and an exe and comm that are the descriptor's. Where bytes can not be
// sealed, a private copy is verified and runs; a plugin of this user could change
// it.
//
// # What a plugin process gets
//
// A process group and a working directory of its own; as environment, the
// variables that its manifest entry names plus three of the protocol; an empty
// standard input; a socket folder of mode 0700 that only this launch uses. Its
// standard output and error go to the log, line by line, and never block it.
// On Linux the kernel kills it when the host dies, however that happens.
//
// All AWS_ variables of the host go to a plugin with Plugin.AWS. Another can get
// the region or an endpoint by name, and nothing that leads to credentials.
//
// On Linux it also gets no privilege that its host has not (no_new_privs), no
// core dump, an oom_score_adj of 500 above its host's, and its Limits; and the
// host talks to no socket that is not served by a process of its group and user.
//
// Plugins run as their host's user. Protect keeps them from reading the host's
// environment and memory; it is for the main of a program, since it changes the
// whole process. Nothing holds back a plugin that runs as root: CheckUser.
package pluginhost
