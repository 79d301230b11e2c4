// Package keypath maps an ID to its path in a hierarchical store (a parameter,
// an object, a secret), or to the keys of its item in a table (type Items), and
// back. Whoever has to know where a value lies, be it a plugin or somebody who
// hears of changes in its store, asks here.
//
// A Template is parsed from a text such as
//
//	/config-service/{tenant}/{service}/{name}
//
// Its segments are parted by '/'. A segment is either literal or one of the
// placeholders {env}, {tenant}, {service} and {name}. {tenant} and {name} must
// occur, {name} comes last and stands for one or more segments, every other
// placeholder for exactly one, and {tenant} comes before {service}, so that
// there is one folder with all that is a tenant's. A template that starts with
// '/' makes paths that do.
//
// # What is guaranteed
//
// Path is injective: two IDs never share a path. This holds by construction,
// not by escaping. No segment of an ID holds a '/', the tenant stands at a fixed
// place, and the segment of the service is either always there (NoService is
// set, and is no service's name) or left out only for names of one segment,
// whose paths then have fewer segments than any path with a service has.
//
// ID is the exact inverse of Path: ID(p) is id if and only if Path(id) is p.
// Whatever else lies in the store has no ID.
//
// # Folders
//
// A folder ends with '/'. An entry lies in a folder if its path starts with it,
// and is a direct child if no further '/' follows. Folder says where one scope
// lies: of the paths that Path can make, those in the folder (if flat: its
// direct children) are exactly the scope's. Things that others put there have
// no ID, so a reader asks ID for every path it lists.
package keypath
