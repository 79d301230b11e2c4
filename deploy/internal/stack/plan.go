package stack

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/cloudformation"
)

// unknown is the place of a stack whose account nobody has asked.
const unknownAccount = "ACCOUNT"

// place is where the stack would be, as far as it is known.
func (p *Parameters) place(a *Account) cloudformation.Place {
	switch {
	case a != nil:
		return cloudformation.Place{Account: a.ID, Region: a.Region}
	default:
		place := cloudformation.Place{Account: unknownAccount, Region: "REGION"}
		if p.Account != "" {
			place.Account = p.Account
		}
		if p.Region != "" {
			place.Region = p.Region
		}
		return place
	}
}

// plan prints what a deployment would make, from the templates alone.
func plan(c *Console, p *Parameters, place cloudformation.Place) error {
	root, err := p.evaluate(place)
	if err != nil {
		return err
	}
	c.say("Stack %s in account %s, region %s", p.Name(), place.Account, place.Region)
	c.say("")
	c.say("1. the stack %s, where it is not there: repositories, and the bucket", p.artifactsName())
	c.say("   s3://%s-artifacts-%s-%s", p.Project, place.Account, place.Region)
	switch {
	case p.Package != "":
		c.say("2. the function's package, %s, to that bucket", p.Package)
	case slices.Contains(p.missing, settingPackage):
		c.say("2. the function's package, which make lambda makes, to that bucket")
	default:
		c.say("2. the function's package: s3://%s/%s, version %s", p.Values["CodeBucket"], p.Values["CodeKey"], p.Values["CodeVersion"])
	}
	files, err := pack("https://BUCKET")
	if err != nil {
		return err
	}
	c.say("3. %d templates to that bucket", len(files.files))
	c.say("4. a change set of the stack %s, shown before it is made. Of a new stack:", p.Name())
	c.say("")
	total := 0
	for _, s := range root.All() {
		if s == root {
			continue
		}
		kinds := map[string]int{}
		for _, r := range s.Resources {
			kinds[strings.TrimPrefix(r.Type, "AWS::")]++
			total++
		}
		c.say("   %-14s %3d resources: %s", s.Name, len(s.Resources), summary(kinds))
	}
	c.say("   %-14s %3d", "in all", total)
	c.say("")
	c.say("5. the smoke test: %s", smokeText)
	c.say("6. a release is written to that bucket, for a rollback to go back to")
	return nil
}

// summary names the kinds that there are most of.
func summary(kinds map[string]int) string {
	names := slices.SortedFunc(maps.Keys(kinds), func(x, y string) int {
		if kinds[x] != kinds[y] {
			return kinds[y] - kinds[x]
		}
		return strings.Compare(x, y)
	})
	const most = 4
	var parts []string
	for i, name := range names {
		if i == most {
			parts = append(parts, "…")
			break
		}
		parts = append(parts, fmt.Sprintf("%d %s", kinds[name], name))
	}
	return strings.Join(parts, ", ")
}
