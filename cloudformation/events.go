package cloudformation

import (
	"fmt"
	"slices"
	"strings"
)

// Matches reports whether an event fits a pattern of EventBridge: every key of the
// pattern has to be in the event, with one of the values that it lists. What of
// patterns is not known here is an error, never passed over.
func Matches(pattern, event map[string]any) (bool, error) {
	if len(pattern) == 0 {
		return false, fmt.Errorf("a pattern that says nothing")
	}
	all := true
	for key, want := range pattern {
		if key == "$or" {
			alternatives, _ := want.([]any)
			if len(alternatives) < 2 {
				return false, fmt.Errorf("$or has %d alternatives", len(alternatives))
			}
			some := false
			for _, a := range alternatives {
				m, _ := a.(map[string]any)
				fits, err := Matches(m, event)
				if err != nil {
					return false, err
				}
				some = some || fits
			}
			all = all && some
			continue
		}
		fits, err := field(key, want, event[key])
		if err != nil {
			return false, err
		}
		all = all && fits
	}
	return all, nil
}

func field(key string, want, value any) (bool, error) {
	switch w := want.(type) {
	case map[string]any:
		inner, _ := value.(map[string]any)
		return Matches(w, inner)
	case []any:
		if len(w) == 0 {
			return false, fmt.Errorf("%s may be nothing", key)
		}
		values, isList := value.([]any)
		if !isList {
			values = []any{value}
		}
		some := false
		for _, one := range w {
			test, err := comparison(key, one)
			if err != nil {
				return false, err
			}
			some = some || slices.ContainsFunc(values, test)
		}
		return some && value != nil, nil
	}
	return false, fmt.Errorf("%s is %T: a pattern lists values", key, want)
}

// comparison returns what a value of a pattern asks of one of an event.
func comparison(key string, want any) (func(any) bool, error) {
	switch w := want.(type) {
	case string:
		return func(v any) bool { return v == w }, nil
	case map[string]any:
		prefix, isText := w["prefix"].(string)
		if len(w) != 1 || !isText {
			return nil, fmt.Errorf("%s: %v is not known here", key, w)
		}
		return func(v any) bool { s, ok := v.(string); return ok && strings.HasPrefix(s, prefix) }, nil
	}
	return nil, fmt.Errorf("%s: %v is not known here", key, want)
}
