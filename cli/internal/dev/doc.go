// Package dev runs the whole of tagstore on one machine for development: the
// configuration service with its plugins and the order service as child
// processes, and a token issuer in this one, all on loopback.
//
// All state is in one folder, which one system at a time may use:
//
//	lock            held for as long as the system runs
//	dev.json        where everything is, and tokens; there while it is ready
//	identity.json   the keys that make tokens outlive a restart
//	tagstore.yaml   the manifest, written once and then the user's
//	plugins/        a copy of the local plugin
//	data/           what is stored
//	logs/           the log of each service, from its last start
package dev
