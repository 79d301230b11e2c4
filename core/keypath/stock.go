package keypath

import "strings"

// The templates of stores whose options set none, and the segment that stands
// in objects' keys for "no service".
const (
	ParameterTemplate = "/config-service/{tenant}/{service}/{name}"
	SecretTemplate    = "{tenant}/{service}/{name}" //nolint:gosec // G101: no credential, a template
	ObjectTemplate    = "{tenant}/{service}/{name}"
	ObjectNoService   = "_"
)

// Parameters returns the options of a store of parameters, with the template
// that such a store has where none is set.
func Parameters(o Options) Options { return o.or(ParameterTemplate) }

// Secrets is Parameters for a store of secrets.
func Secrets(o Options) Options { return o.or(SecretTemplate) }

// Objects is Parameters for a store of objects. There, NoService is noService,
// and without one it is ObjectNoService if the template has {service}: an
// object's key can not be told from a folder's by looking.
func Objects(o Options, noService *string) Options {
	o = o.or(ObjectTemplate)
	switch {
	case noService != nil:
		o.NoService = *noService
	case strings.Contains(o.Template, service):
		o.NoService = ObjectNoService
	default:
		o.NoService = ""
	}
	return o
}

func (o Options) or(template string) Options {
	if o.Template == "" {
		o.Template = template
	}
	return o
}
