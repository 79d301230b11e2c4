package cloudformation

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diagrams returns two diagrams of a stack of main.yaml in the language of Mermaid:
// the stacks, and what each gives to which, and the parts that a request or a change
// goes through. Both are read from the templates; nothing is drawn that is not there.
func Diagrams(root *Stack) (stacks, flow string) {
	return stackDiagram(root), flowDiagram(root)
}

// stackDiagram has a box for each nested stack and an arrow for what one has of
// another.
func stackDiagram(root *Stack) string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	gives := map[[2]string][]string{}
	for _, name := range slices.Sorted(maps.Keys(root.Nested)) {
		fmt.Fprintf(&b, "  %s[\"%s<br>%d resources\"]\n", strings.ToLower(name), strings.ToLower(name), len(root.Nested[name].Resources))
		body, _ := root.Template.Resource(name)
		calls("", body["Properties"], func(c Call) {
			pair, _ := c.Argument.([]any)
			if c.Function != "Fn::GetAtt" || len(pair) != 2 {
				return
			}
			from, _ := pair[0].(string)
			key := [2]string{from, name}
			gives[key] = append(gives[key], strings.TrimPrefix(text(pair[1]), "Outputs."))
		})
	}
	keys := slices.SortedFunc(maps.Keys(gives), func(x, y [2]string) int { return slices.Compare(x[:], y[:]) })
	for _, key := range keys {
		names := gives[key]
		slices.Sort(names)
		names = slices.Compact(names)
		label := strings.Join(names, ", ")
		if len(names) > 2 {
			label = fmt.Sprintf("%s and %d more", names[0], len(names)-1)
		}
		fmt.Fprintf(&b, "  %s -->|%q| %s\n", strings.ToLower(key[0]), label, strings.ToLower(key[1]))
	}
	return b.String()
}

// flowDiagram has what may reach what, by the rules of the network, and what comes in
// from outside of it: requests by the edge, changes by rules and by the stream.
func flowDiagram(root *Stack) string {
	lines := map[string]bool{}
	arrow := func(from, label, to string) { lines[fmt.Sprintf("  %s -->|%q| %s", from, label, to)] = true }
	for _, s := range root.All() {
		for _, name := range slices.Sorted(maps.Keys(s.Resources)) {
			r := s.Resources[name]
			switch r.Type {
			case "AWS::EC2::SecurityGroupIngress":
				arrow(group(s, r.Properties["SourceSecurityGroupId"]), fmt.Sprintf("%s: %s", ports(r.Properties), text(r.Properties["Description"])), group(s, r.Properties["GroupId"]))
			case "AWS::EC2::SecurityGroupEgress":
				if r.Properties["CidrIp"] != nil {
					arrow(group(s, r.Properties["GroupId"]), fmt.Sprintf("%s: %s", ports(r.Properties), text(r.Properties["Description"])), "nat")
				}
			case "AWS::WAFv2::WebACLAssociation":
				arrow("internet", "443", "firewall")
				arrow("firewall", "what no rule stops", "api")
			case "AWS::ApiGatewayV2::VpcLink":
				arrow("api", "a token of the user pool", "link")
			case "AWS::Events::Rule":
				targets, _ := r.Properties["Targets"].([]any)
				for _, target := range targets {
					m, _ := target.(map[string]any)
					if id := text(m["Id"]); id == "refresh" {
						pattern, _ := r.Properties["EventPattern"].(map[string]any)
						arrow(strings.ReplaceAll(strings.TrimPrefix(text(pattern["source"]), "aws."), ".", "_"), "EventBridge", "refresh")
					}
				}
			case "AWS::Lambda::EventSourceMapping":
				arrow("dynamodb", "stream", "refresh")
			}
		}
	}
	return "flowchart LR\n" + strings.Join(slices.Sorted(maps.Keys(lines)), "\n") + "\n"
}

// group is the name of a security group in a diagram.
func group(s *Stack, value any) string {
	return strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(text(value), s.Name+"-"), "Group"))
}

// ports are those of a rule of the network.
func ports(properties map[string]any) string {
	from, to := text(properties["FromPort"]), text(properties["ToPort"])
	if from == to {
		return from
	}
	return from + "-" + to
}
