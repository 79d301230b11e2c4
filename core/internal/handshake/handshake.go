// Package handshake holds what both ends of the plugin protocol must agree on
// before the first call. Changing any of it shuts out the plugins that exist.
package handshake

// The cookie tells a plugin that it was started by a host rather than by hand.
// It keeps people from an accident; it protects nothing.
const (
	CookieKey   = "TAGSTORE_PLUGIN_COOKIE"
	CookieValue = "4f0c3b1e-backend"
)

// ProtocolVersion is the version of package tagstore.backend.v1, negotiated at
// the handshake. Another version is another proto package, which both ends then
// offer beside the one before it, for one release: see ADR 0013.
const ProtocolVersion = 1

// APIMinor counts the additions within ProtocolVersion. A host accepts every
// minor version: what it lacks shows as a capability that is not declared.
const APIMinor = 2

// InstanceKey is the metadata that names, with every call, the instance that the
// call is for: a backend of the manifest, or one of its prefixes.
const InstanceKey = "x-tagstore-instance"

// SocketVariable names the socket that a plugin serves on when nobody launched
// it: a path that the host has as the plugin's address.
const SocketVariable = "TAGSTORE_PLUGIN_SOCKET"

// FeatureReconfigure says that Configure may be called again with the same
// options, as a host does that lost its connection to a plugin which it did not
// launch.
const FeatureReconfigure = "reconfigure"

// HealthService is the name under which a plugin's health is asked for.
const HealthService = "plugin"

// PluginName is what a plugin is dispensed as.
const PluginName = "backend"

// MaxMessage bounds one message in either direction, in bytes. It holds a page
// whose values (driver.MaxPageBytes) and metadata are as large as they can be,
// or the largest value.
const MaxMessage = 9 << 20

// MaxFrame bounds one message of an Exchange, which holds a message and what
// stands around it, in bytes.
const MaxFrame = MaxMessage + 1<<10

// FeatureExchange is what a plugin that serves Exchange says among its features.
const FeatureExchange = "exchange"

// BatchBytes is where a plugin ends the answer to a BatchGet, in bytes; the
// host asks again for the rest. The first result may pass it: it goes alone.
const BatchBytes = 3 << 20

// MaxResult is the largest single result of a BatchGet, in bytes. The rest of
// MaxMessage is what a message takes around it.
const MaxResult = MaxMessage - 1<<10
