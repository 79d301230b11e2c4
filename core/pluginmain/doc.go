// Package pluginmain is what the main function of a storage plugin calls: it
// turns a driver.Backend into a process that the configuration service starts,
// configures, calls and stops.
//
//	func main() {
//		pluginmain.Serve(pluginmain.Plugin[localbackend.Options]{
//			Name: "local", Version: version, Open: localbackend.Open,
//		})
//	}
//
// The plugin's life: the host starts the process, asks what it is, sends the
// options once (Open runs), calls the Backend from many goroutines, and ends
// the process with SIGTERM, upon which calls in flight get a second to finish,
// watches end and the Backend is closed. SIGINT is ignored: Ctrl-C in the
// host's terminal is the host's to handle. A plugin whose host is gone ends by
// itself within two seconds.
//
// A plugin also runs without a host to start it, such as in a container of its
// own: TAGSTORE_PLUGIN_SOCKET=/run/x.sock has it serve there, for hosts that have
// "unix:///run/x.sock" as its address. The options still come from them. It may
// be called by several at once and again after each loss of the connection, and
// whoever asks for other options than the first is refused. SIGTERM and SIGINT
// end it, and calls in flight get ten seconds.
//
// Logs: slog.Default leads to the host's log, every level, and so does what
// the process writes to stderr. Standard output belongs to the protocol until
// Serve has started and to the log from then on.
//
// Panics: one in a Backend's method, or in Open, fails the call that it
// happened in with code Internal and is logged with its stack; the process and
// its other calls go on. One in a goroutine that the Backend started itself
// ends the process, which the host starts again.
//
// Limits: a message is at most 4 MiB in either direction. A BatchGet whose
// results are larger is split; any other answer that is larger fails with
// ResourceExhausted.
package pluginmain
