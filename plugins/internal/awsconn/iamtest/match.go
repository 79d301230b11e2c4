package iamtest

import "strings"

// The wildcards of a pattern. They stand for what '*' and '?' mean in a policy;
// a '*' that came out of a variable is an ordinary byte of the pattern.
const (
	anyRun  = '\x01'
	anyByte = '\x02'
)

var wildcards = strings.NewReplacer("*", string(anyRun), "?", string(anyByte))

// glob matches a policy's text without variables, such as an action.
func glob(pattern, s string) bool {
	return match(wildcards.Replace(pattern), s, func(int) bool { return true })
}

// match reports whether the pattern matches all of s. crosses says whether the
// wildcard at an index of the pattern may stand for a colon. It takes time in
// proportion to the two lengths' product, whatever the pattern.
func match(pattern, s string, crosses func(int) bool) bool {
	at := make([]bool, len(s)+1) // the lengths of s that the pattern so far matches
	at[0] = true
	for i := range len(pattern) {
		next := make([]bool, len(s)+1)
		switch p := pattern[i]; p {
		case anyRun:
			crosses, on := crosses(i), false
			for j := range next {
				on = on || at[j]
				next[j] = on
				if j < len(s) && s[j] == ':' && !crosses {
					on = false
				}
			}
		case anyByte:
			crosses := crosses(i)
			for j := range len(s) {
				next[j+1] = at[j] && (s[j] != ':' || crosses)
			}
		default:
			for j := range len(s) {
				next[j+1] = at[j] && s[j] == p
			}
		}
		at = next
	}
	return at[len(s)]
}

// resourceMatches matches the Resource element: within the first five parts of
// an ARN a wildcard stays in its part, unless it is a '*' that ends it.
func resourceMatches(pattern, resource string) bool {
	return match(pattern, resource, func(i int) bool {
		if strings.Count(pattern[:i], ":") >= 5 {
			return true
		}
		return pattern[i] == anyRun && (i+1 == len(pattern) || pattern[i+1] == ':')
	})
}

// arnMatches matches the ARN operators, which compare part by part.
func arnMatches(pattern, arn string) bool {
	patterns, parts := strings.SplitN(pattern, ":", 6), strings.SplitN(arn, ":", 6)
	if len(patterns) != 6 || len(parts) != 6 {
		return false
	}
	for i := range patterns {
		if !match(patterns[i], parts[i], func(int) bool { return true }) {
			return false
		}
	}
	return true
}
