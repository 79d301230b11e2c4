package stack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tagstore/tagstore/cloudformation"
	"github.com/tagstore/tagstore/core/config"
)

// The templates that a stack is made from.
const (
	mainTemplate      = "main.yaml"
	artifactsTemplate = "artifacts.yaml"
)

// Names that stand in a parameters file beside those of main.yaml.
const (
	// settingRegion and settingAccount are where a deployment may go. They are what
	// stands between a shell that is logged in elsewhere and that account.
	settingRegion  = "Region"
	settingAccount = "Account"
	// settingPackage is the refresh function's package, a file.
	settingPackage = "Package"
)

// ofPackage are the parameters of main.yaml that come of uploading the package.
var ofPackage = []string{"CodeBucket", "CodeKey", "CodeVersion"}

// Parameters is what one deployment is asked for.
type Parameters struct {
	Project, Environment string
	// Region and Account are what the deployment is held to, "" for whatever the
	// environment says.
	Region, Account string
	// Package is the path of the function's package, "" where Values name one that
	// has been uploaded.
	Package string
	// Values are those of main.yaml, as given.
	Values map[string]string
	// missing are the parameters that have to be given and are not.
	missing []string
}

// Name is the name of the stack.
func (p *Parameters) Name() string { return p.Project + "-" + p.Environment }

// artifactsName is the name of the stack that comes before it.
func (p *Parameters) artifactsName() string { return p.Project + "-artifacts" }

// ReadValues reads lines of Name=Value. Empty lines, and what follows a '#' at the
// start of a line, are left out; an empty value is not given. The error, with code
// InvalidArgument, has every line that is wrong.
func ReadValues(r io.Reader, file string) (map[string]string, error) {
	values := map[string]string{}
	var wrong []error
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok || name == "":
			wrong = append(wrong, config.Errorf(config.InvalidArgument, "%s, line %d: not Name=Value", file, n).
				WithHint("write one parameter in each line, without quotes"))
		case values[name] != "":
			wrong = append(wrong, config.Errorf(config.InvalidArgument, "%s, line %d: %s stands there twice", file, n, name).
				WithHint("leave one of them"))
		default:
			values[name] = value
		}
	}
	if err := lines.Err(); err != nil {
		wrong = append(wrong, config.Errorf(config.InvalidArgument, "%s: %w", file, err))
	}
	return values, errors.Join(wrong...)
}

// NewParameters makes a deployment's parameters of the values of a file and of
// flags. The error has all that is wrong, with code InvalidArgument: no call to AWS
// is needed to find it. What is missing [Parameters.Complete] tells.
func NewParameters(environment string, values map[string]string) (*Parameters, error) {
	values = maps.Clone(values)
	maps.DeleteFunc(values, func(_, v string) bool { return v == "" })
	p := &Parameters{
		Environment: environment, Region: values[settingRegion], Account: values[settingAccount],
		Package: values[settingPackage], Values: values,
	}
	for _, name := range []string{settingRegion, settingAccount, settingPackage} {
		delete(values, name)
	}
	if said := values["Environment"]; said != "" && said != environment {
		return nil, config.Errorf(config.InvalidArgument, "the parameters are for the environment %s, and %s is asked for", said, environment).
			WithHint("use the file of that environment, or leave Environment out of it")
	}
	values["Environment"] = environment
	t, err := declared()
	if err != nil {
		return nil, err
	}
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if _, known := t[name]; !known {
			wrong = append(wrong, config.Errorf(config.InvalidArgument, "there is no parameter %s", name).
				WithHint("the parameters are in cloudformation/README.md, with Region, Account and Package beside them"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if p.Package != "" && slices.Contains(ofPackage, name) {
			if values[name] != "" {
				wrong = append(wrong, config.Errorf(config.InvalidArgument, "Package and %s are both given", name).
					WithHint("give the package's file, or where it was uploaded to"))
			}
			continue
		}
		if values[name] == "" && !t[name].hasInitial {
			p.missing = append(p.missing, name)
		} else if err := check(name, t[name], values[name]); err != nil {
			wrong = append(wrong, err)
		}
	}
	// A package that nothing names is one thing that is missing, not three.
	if missing := func(name string) bool { return slices.Contains(p.missing, name) }; !slices.ContainsFunc(ofPackage, func(name string) bool { return !missing(name) }) {
		p.missing = append(slices.DeleteFunc(p.missing, func(name string) bool { return slices.Contains(ofPackage, name) }), settingPackage)
	}
	p.Project = values["Project"]
	if p.Project == "" {
		p.Project = t["Project"].initial
	}
	if arn := strings.Split(values["CertificateArn"], ":"); len(arn) > 3 && p.Region != "" && arn[3] != p.Region {
		wrong = append(wrong, config.Errorf(config.InvalidArgument, "CertificateArn is of the region %s, and the stack would be in %s", arn[3], p.Region).
			WithHint("make a certificate in the stack's own region: a load balancer takes no other"))
	}
	if len(wrong) == 0 {
		wrong = append(wrong, p.rules()...)
	}
	return p, errors.Join(wrong...)
}

// Complete returns an error for each parameter that is missing, nil for none.
func (p *Parameters) Complete() error {
	t, err := declared()
	if err != nil {
		return err
	}
	t[settingPackage] = declaration{description: "the refresh function's package, a zip file that make lambda makes"}
	var missing []error
	for _, name := range p.missing {
		missing = append(missing, check(name, t[name], ""))
	}
	return errors.Join(missing...)
}

// rules asks the rules of the template.
func (p *Parameters) rules() []error {
	s, err := p.evaluate(cloudformation.Place{Account: "ACCOUNT", Region: "REGION"})
	if err != nil {
		return []error{config.Errorf(config.InvalidArgument, "the templates can not be evaluated: %w", err)}
	}
	var wrong []error
	for _, rule := range s.Refused() {
		wrong = append(wrong, config.Errorf(config.InvalidArgument, "the parameters do not go together: %s", rule).WithHint("what each is for is in cloudformation/README.md"))
	}
	return wrong
}

// evaluate says what the stack would be.
func (p *Parameters) evaluate(place cloudformation.Place) (*cloudformation.Stack, error) {
	values := map[string]any{}
	for name, value := range p.Values {
		values[name] = value
	}
	for _, name := range slices.Concat(ofPackage, p.missing) {
		if values[name] == nil && name != settingPackage {
			values[name] = "MISSING"
		}
	}
	return cloudformation.NewAt(place, mainTemplate, values)
}

// declaration is what a template says of a parameter.
type declaration struct {
	initial     string
	hasInitial  bool
	allowed     []string
	pattern     string
	number      bool
	min, max    *float64
	description string
	constraint  string
}

// declared returns the parameters of main.yaml.
func declared() (map[string]declaration, error) {
	text, err := cloudformation.Templates.ReadFile(mainTemplate)
	if err != nil {
		return nil, err
	}
	t, err := cloudformation.Parse(mainTemplate, text)
	if err != nil {
		return nil, err
	}
	all := map[string]declaration{}
	for name, body := range t.Sections["Parameters"] {
		m, _ := body.(map[string]any)
		d := declaration{number: m["Type"] == "Number"}
		if initial, ok := m["Default"]; ok {
			d.initial, d.hasInitial = fmt.Sprint(initial), true
		}
		d.pattern, _ = m["AllowedPattern"].(string)
		d.description, _ = m["Description"].(string)
		d.constraint, _ = m["ConstraintDescription"].(string)
		if list, ok := m["AllowedValues"].([]any); ok {
			for _, v := range list {
				d.allowed = append(d.allowed, fmt.Sprint(v))
			}
		}
		for key, bound := range map[string]**float64{"MinValue": &d.min, "MaxValue": &d.max} {
			if n, err := strconv.ParseFloat(fmt.Sprint(m[key]), 64); m[key] != nil && err == nil {
				*bound = &n
			}
		}
		all[name] = d
	}
	return all, nil
}

// check holds a value to what the template says of its parameter.
func check(name string, d declaration, value string) error {
	wrong := func(format string, args ...any) error {
		e := config.Errorf(config.InvalidArgument, "%s "+format, append([]any{name}, args...)...)
		switch {
		case d.constraint != "":
			return e.WithHint("%s", d.constraint)
		case d.description != "":
			return e.WithHint("it is %s", d.description)
		}
		return e.WithHint("what it is for is in cloudformation/README.md")
	}
	if value == "" {
		if d.hasInitial {
			return nil
		}
		return wrong("is missing")
	}
	if len(d.allowed) > 0 && !slices.Contains(d.allowed, value) {
		return wrong("is none of %s", strings.Join(d.allowed, ", "))
	}
	if d.pattern != "" {
		pattern, err := regexp.Compile(`\A(?:` + d.pattern + `)\z`)
		if err != nil {
			return config.Errorf(config.Internal, "the pattern of %s is none that this program can read", name).WithCause(err)
		}
		if !pattern.MatchString(value) {
			return wrong("does not have the form %s", d.pattern)
		}
	}
	if d.number {
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return wrong("is no number")
		}
		if d.min != nil && n < *d.min || d.max != nil && n > *d.max {
			return wrong("is out of its bounds")
		}
	}
	return nil
}
