package keypath

import (
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// Options are what a Template is made of, as they stand in a plugin's options.
type Options struct {
	// Template is the text described at the package, such as
	// "/config-service/{tenant}/{service}/{name}".
	Template string
	// Env is the segment that {env} stands for. It is set if and only if {env}
	// occurs.
	Env string
	// KeyPrefix is what every key of the store starts with; {name} is the key
	// without it. "" keeps the whole key.
	KeyPrefix string
	// NoService is the segment that {service} stands for in an ID without a
	// service. "" leaves the segment out.
	NoService string
}

// Template maps IDs to paths and back. It does not change and may be used by
// any number of goroutines.
type Template struct {
	root      string   // everything before the tenant, "" or ending with "/"
	before    []string // literal segments between {tenant} and {service}
	after     []string // literal segments between {service} (or {tenant}) and {name}
	service   bool     // {service} occurs
	noService string
	keyPrefix string
}

// Path returns the path of id. The error has code InvalidArgument: the key does
// not start with KeyPrefix or has no name behind it, the template has no place
// for the service, or the ID has no path of its own, because it is without a
// service, NoService is not set and its name has more than one segment.
func (t *Template) Path(id config.ID) (string, error) {
	if id.IsZero() {
		return "", config.Errorf(config.InvalidArgument, "the id has no tenant or no key")
	}
	name, ok := strings.CutPrefix(id.Key.String(), t.keyPrefix)
	if !ok {
		return "", config.Errorf(config.InvalidArgument, "this store serves only keys that start with %q", t.keyPrefix).WithKey(id.Key).
			WithHint("route the key to another store, or change key_prefix")
	}
	if err := config.CheckName(name); err != nil {
		return "", config.AsError(err, "", id.Key)
	}
	if !t.service && !id.Service.IsZero() {
		return "", config.Errorf(config.InvalidArgument, "this store keeps nothing per service: its path template has no {service}").WithKey(id.Key).
			WithHint("ask without a service, or put {service} into the template")
	}
	if t.bare(id.Service) && strings.Contains(name, "/") {
		return "", config.Errorf(config.InvalidArgument, "without a service the key's name must be one segment here: with more its path would look like a service's").
			WithKey(id.Key).WithHint(`set no_service: "_", name a service, or use a name without '/'`)
	}
	folder, _ := t.Folder(id.Tenant, id.Service)
	return folder + name, nil
}

// ID returns the ID whose path this is, and false for every other text.
func (t *Template) ID(path string) (config.ID, bool) {
	rest, ok := strings.CutPrefix(path, t.root)
	if !ok {
		return config.ID{}, false
	}
	segment, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return config.ID{}, false
	}
	tenant, err := config.ParseOwner(segment)
	if err != nil {
		return config.ID{}, false
	}
	// With the service left out the name is one segment, and so a longer path has
	// a service.
	segments := strings.Split(rest, "/")
	fixed := len(t.before) + len(t.after)
	var service config.Service
	if t.service && (t.noService != "" || len(segments) > fixed+1) {
		if len(segments) < fixed+2 {
			return config.ID{}, false
		}
		if s := segments[len(t.before)]; s != t.noService {
			if service, err = config.ParseService(s); err != nil {
				return config.ID{}, false
			}
		}
	}
	folder, _ := t.Folder(tenant, service)
	name, ok := strings.CutPrefix(path, folder)
	if !ok || config.CheckName(name) != nil {
		return config.ID{}, false
	}
	key, err := config.ParseKey(t.keyPrefix + name)
	if err != nil {
		return config.ID{}, false
	}
	return config.ID{Tenant: tenant, Service: service, Key: key}, true
}

// Folder returns the folder that holds exactly the values of this tenant and
// service: of the paths that Path makes, those in it are the scope's, or, if
// flat, those that are its direct children; deeper ones are then of the
// tenant's services. A service that the template has no place for has a folder
// that no path lies in, and so has the zero tenant.
func (t *Template) Folder(tenant config.Tenant, service config.Service) (folder string, flat bool) {
	var b strings.Builder
	b.WriteString(t.TenantRoot(tenant))
	for _, s := range t.before {
		b.WriteString(s)
		b.WriteByte('/')
	}
	switch {
	case !service.IsZero() && t.service:
		b.WriteString(service.String())
		b.WriteByte('/')
	case !service.IsZero(): // an empty segment, which no path has
		b.WriteByte('/')
	case t.noService != "":
		b.WriteString(t.noService)
		b.WriteByte('/')
	}
	for _, s := range t.after {
		b.WriteString(s)
		b.WriteByte('/')
	}
	return b.String(), t.bare(service)
}

// TenantRoot returns the folder that holds everything of one tenant, of all its
// services and of none, and nothing of another tenant.
func (t *Template) TenantRoot(tenant config.Tenant) string {
	return t.root + tenant.String() + "/"
}

// NamePrefix turns the key prefix of a listing into what the name, the part
// behind the folder, has to start with. It is false if no key of this store
// starts so.
func (t *Template) NamePrefix(keyPrefix string) (string, bool) {
	if strings.HasPrefix(t.keyPrefix, keyPrefix) {
		return "", true
	}
	return strings.CutPrefix(keyPrefix, t.keyPrefix)
}

// HasService reports whether the template has a place for a service.
func (t *Template) HasService() bool { return t.service }

// bare reports whether the scope's paths leave the segment of the service out
// although those of others have it.
func (t *Template) bare(service config.Service) bool {
	return t.service && service.IsZero() && t.noService == ""
}
