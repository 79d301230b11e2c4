package keypath

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// The placeholders.
const (
	env     = "{env}"
	tenant  = "{tenant}"
	service = "{service}"
	name    = "{name}"
)

var placeholders = []string{env, tenant, service, name}

// Parse checks o and returns its Template. The error has code InvalidArgument
// and names every problem at once, each with its mend. It speaks of the options
// as template, env, key_prefix and no_service.
func Parse(o Options) (*Template, error) {
	p := parser{seen: map[string]int{}}
	segments := p.template(o.Template)
	p.options(o)
	if len(p.wrong) > 0 {
		return nil, config.Errorf(config.InvalidArgument, "%s", strings.Join(p.wrong, "; "))
	}
	t := &Template{service: p.has(service), noService: o.NoService, keyPrefix: o.KeyPrefix}
	var root strings.Builder
	if strings.HasPrefix(o.Template, "/") {
		root.WriteByte('/')
	}
	into := &t.after
	if t.service {
		into = &t.before
	}
	for i, s := range segments {
		switch {
		case s == tenant, s == name:
		case s == service:
			into = &t.after
		case i > p.seen[tenant]:
			*into = append(*into, expand(s, o.Env))
		default:
			root.WriteString(expand(s, o.Env))
			root.WriteByte('/')
		}
	}
	t.root = root.String()
	return t, nil
}

func expand(segment, value string) string {
	if segment == env {
		return value
	}
	return segment
}

// parser gathers what is wrong.
type parser struct {
	wrong []string
	seen  map[string]int // placeholder -> the segment it stands at first
}

func (p *parser) add(format string, args ...any) {
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

func (p *parser) has(placeholder string) bool {
	_, ok := p.seen[placeholder]
	return ok
}

func (p *parser) template(text string) []string {
	if text == "" {
		p.add(`template is missing: write one such as "/config-service/{tenant}/{service}/{name}"`)
		return nil
	}
	segments := strings.Split(strings.TrimPrefix(text, "/"), "/")
	empty := false
	for i, s := range segments {
		if s == "" {
			if !empty {
				p.add("template has an empty segment: '/' parts segments, it may stand first, not last and not twice in a row")
			}
			empty = true
			continue
		}
		p.segment(i, s)
	}
	p.order(len(segments))
	return segments
}

func (p *parser) segment(i int, s string) {
	switch {
	case slices.Contains(placeholders, s):
		if p.has(s) {
			p.add("template has %s twice: leave one out", s)
			return
		}
		p.seen[s] = i
	case strings.ContainsAny(s, "{}"):
		for _, known := range placeholders {
			if strings.Contains(s, known) {
				p.add("%s must be a segment of its own, else two ids could share a path: part it from its neighbours with '/'", known)
				p.seen[known] = i // it is there, if badly
				return
			}
		}
		p.add("template has an unknown placeholder in segment %d: the known ones are %s", i+1, strings.Join(placeholders, ", "))
	default:
		if why := badSegment(s); why != "" {
			p.add("segment %d of the template %s", i+1, why)
		}
	}
}

// order checks what must be there and where.
func (p *parser) order(segments int) {
	if !p.has(tenant) {
		p.add("template has no {tenant}, so all tenants would share their paths: put {tenant} in front of {name}")
	}
	at, ok := p.seen[name]
	switch {
	case !ok:
		p.add("template has no {name}, so all keys would share one path: end it with /{name}")
	case at != segments-1:
		p.add("{name} is not the last segment, but it may hold several itself: move it to the end")
	}
	if p.has(tenant) && p.has(service) && p.seen[service] < p.seen[tenant] {
		p.add("{service} comes before {tenant}, so no folder would hold what is one tenant's: put {tenant} first")
	}
}

func (p *parser) options(o Options) {
	switch {
	case p.has(env) && o.Env == "":
		p.add("env is missing, but template has {env}: set it, such as env: production")
	case !p.has(env) && o.Env != "" && o.Template != "":
		p.add("env is set, but template has no {env}: put {env} into it or remove env")
	}
	if o.Env != "" {
		if why := badSegment(o.Env); why != "" {
			p.add("env %s", why)
		}
	}
	if o.KeyPrefix != "" {
		if _, err := config.ParseKeyPrefix(o.KeyPrefix); err != nil {
			p.add("key_prefix can not start a key: %s", err)
		}
	}
	if o.NoService != "" {
		if !p.has(service) && o.Template != "" {
			p.add("no_service is set, but template has no {service}: remove no_service")
		}
		if why := badSegment(o.NoService); why != "" {
			p.add("no_service %s", why)
		} else if _, err := config.ParseService(o.NoService); err == nil {
			p.add(`no_service could be a service's own name, and the two would share paths: use one that can not, such as "_"`)
		}
	}
}

// badSegment says what is wrong with a literal segment, "" if nothing is. The
// bytes are those of a key, which every store takes.
func badSegment(s string) string {
	if strings.Contains(s, "/") {
		return "has a '/' in it: write one segment"
	}
	if err := config.CheckName(s); err != nil {
		return "is not one: use A-Z, a-z, 0-9, '.', '_' and '-', and not \".\" or \"..\" alone"
	}
	return ""
}
