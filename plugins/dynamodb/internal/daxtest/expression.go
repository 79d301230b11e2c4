package daxtest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/fxamacker/cbor/v2"
)

// expression collects the names and values of a request's expressions while
// they are turned back into text. DAX sends expressions as trees of operations
// whose attribute names are in place and whose values are numbered.
type expression struct {
	names  map[string]string
	values Item
	// of the expression being rendered:
	arguments []any
}

// The operations, by the number that the wire has.
const (
	opAnd      = 6
	opOr       = 7
	opNot      = 8
	opBetween  = 9
	opIn       = 10
	opVariable = 17
	opPath     = 18
	opSet      = 19
	opAdd      = 20
	opDelete   = 21
	opRemove   = 22
	opPlus     = 25
	opMinus    = 26
)

var comparators = map[int64]string{0: "=", 1: "<>", 2: "<", 3: ">=", 4: ">", 5: "<="}

var functions = map[int64]string{
	11: "attribute_exists", 12: "attribute_not_exists", 13: "attribute_type", 14: "begins_with", 15: "contains", 16: "size",
	23: "if_not_exists", 24: "list_append",
}

// condition renders a condition, filter or key condition. No bytes are no
// condition.
func (e *expression) condition(raw any) (*string, error) {
	tree, err := e.open(raw)
	if tree == nil || err != nil {
		return nil, err
	}
	text, err := e.render(tree)
	return &text, err
}

// update renders an update: its clauses come in the order of the actions.
func (e *expression) update(raw any) (*string, error) {
	tree, err := e.open(raw)
	if tree == nil || err != nil {
		return nil, err
	}
	actions, err := as[[]any](tree, "an update")
	if err != nil {
		return nil, err
	}
	clauses := map[int64][]string{}
	for _, action := range actions {
		op, args, err := operation(action)
		if err != nil {
			return nil, err
		}
		parts, err := e.renderAll(args)
		if err != nil {
			return nil, err
		}
		join := " "
		if op == opSet {
			join = " = "
		}
		clauses[op] = append(clauses[op], strings.Join(parts, join))
	}
	var text []string
	for _, clause := range []struct {
		op   int64
		word string
	}{{opSet, "SET "}, {opRemove, "REMOVE "}, {opAdd, "ADD "}, {opDelete, "DELETE "}} {
		if all := clauses[clause.op]; len(all) > 0 {
			text = append(text, clause.word+strings.Join(all, ", "))
			delete(clauses, clause.op)
		}
	}
	if len(clauses) > 0 {
		return nil, errors.New("daxtest: an update has an unknown action")
	}
	all := strings.Join(text, " ")
	return &all, nil
}

// open returns the tree of an expression and keeps its values.
func (e *expression) open(raw any) (tree any, err error) {
	if raw == nil {
		return nil, nil
	}
	b, err := as[[]byte](raw, "an expression")
	if err != nil {
		return nil, err
	}
	var parts []any
	if err := cbor.Unmarshal(b, &parts); err != nil {
		return nil, fmt.Errorf("daxtest: expression: %w", err)
	}
	if len(parts) != 3 {
		return nil, fmt.Errorf("daxtest: an expression of %d parts", len(parts))
	}
	if e.arguments, err = as[[]any](parts[2], "an expression's values"); err != nil {
		return nil, err
	}
	return parts[1], nil
}

func operation(node any) (op int64, args []any, err error) {
	list, err := as[[]any](node, "an operation")
	if err != nil {
		return 0, nil, err
	}
	if len(list) == 0 {
		return 0, nil, errors.New("daxtest: an empty operation")
	}
	op, err = integer(list[0], "an operation's number")
	return op, list[1:], err
}

func (e *expression) renderAll(nodes []any) ([]string, error) {
	return convert(nodes, e.render)
}

// render is the text of one operation.
func (e *expression) render(node any) (string, error) {
	op, args, err := operation(node)
	if err != nil {
		return "", err
	}
	switch op {
	case opVariable:
		return e.variable(args)
	case opPath:
		return e.path(args)
	case opIn:
		if len(args) != 2 {
			return "", errors.New("daxtest: IN wants two arguments")
		}
		list, err := as[[]any](args[1], "the list of IN")
		if err != nil {
			return "", err
		}
		args = append([]any{args[0]}, list...)
	}
	parts, err := e.renderAll(args)
	if err != nil {
		return "", err
	}
	want := func(n int) error {
		if len(parts) != n {
			return fmt.Errorf("daxtest: operation %d has %d arguments, wants %d", op, len(parts), n)
		}
		return nil
	}
	if word, is := comparators[op]; is {
		return strings.Join(parts, " "+word+" "), want(2)
	}
	if name, is := functions[op]; is {
		return name + "(" + strings.Join(parts, ", ") + ")", nil
	}
	switch op {
	case opAnd, opOr, opNot:
		for i := range parts {
			parts[i] = parenthesize(args[i], parts[i])
		}
	}
	switch op {
	case opAnd:
		return strings.Join(parts, " AND "), want(2)
	case opOr:
		return strings.Join(parts, " OR "), want(2)
	case opNot:
		return "NOT " + strings.Join(parts, ""), want(1)
	case opBetween:
		if err := want(3); err != nil {
			return "", err
		}
		return parts[0] + " BETWEEN " + parts[1] + " AND " + parts[2], nil
	case opIn:
		return parts[0] + " IN (" + strings.Join(parts[1:], ", ") + ")", nil
	case opPlus:
		return strings.Join(parts, " + "), want(2)
	case opMinus:
		return strings.Join(parts, " - "), want(2)
	}
	return "", fmt.Errorf("daxtest: operation %d is not known", op)
}

// parenthesize keeps the tree's shape where operators bind differently.
func parenthesize(node any, text string) string {
	if op, _, err := operation(node); err == nil && (op == opAnd || op == opOr || op == opNot) {
		return "(" + text + ")"
	}
	return text
}

func (e *expression) variable(args []any) (string, error) {
	if len(args) != 1 {
		return "", errors.New("daxtest: a variable without its number")
	}
	n, err := integer(args[0], "a variable's number")
	if err != nil {
		return "", err
	}
	if n < 0 || n >= int64(len(e.arguments)) {
		return "", fmt.Errorf("daxtest: variable %d of %d", n, len(e.arguments))
	}
	v, err := attribute(e.arguments[n])
	if err != nil {
		return "", err
	}
	return e.literal(v), nil
}

// literal is a new placeholder for a value.
func (e *expression) literal(v types.AttributeValue) string {
	if e.values == nil {
		e.values = Item{}
	}
	placeholder := fmt.Sprintf(":v%d", len(e.values))
	e.values[placeholder] = v
	return placeholder
}

func (e *expression) path(args []any) (string, error) {
	p, err := parsePath(args)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for i, step := range p {
		switch step := step.(type) {
		case string:
			if i > 0 {
				text.WriteByte('.')
			}
			text.WriteString(e.name(step))
		case int:
			fmt.Fprintf(&text, "[%d]", step)
		}
	}
	return text.String(), nil
}

// name is the placeholder of an attribute's name.
func (e *expression) name(s string) string {
	for placeholder, name := range e.names {
		if name == s {
			return placeholder
		}
	}
	if e.names == nil {
		e.names = map[string]string{}
	}
	placeholder := fmt.Sprintf("#n%d", len(e.names))
	e.names[placeholder] = s
	return placeholder
}

func parsePath(args []any) (path, error) {
	return convert(args, func(step any) (any, error) {
		switch step := step.(type) {
		case string:
			return step, nil
		case cbor.Tag:
			if step.Number != tagListIndex {
				return nil, fmt.Errorf("daxtest: a path with tag %d", step.Number)
			}
			n, err := integer(step.Content, "a list's index")
			return int(n), err
		}
		return nil, fmt.Errorf("daxtest: a path with a %T", step)
	})
}

// projection returns the paths of a projection. No bytes are no projection.
func projection(raw any) ([]path, error) {
	if raw == nil {
		return nil, nil
	}
	b, err := as[[]byte](raw, "a projection")
	if err != nil {
		return nil, err
	}
	var parts []any
	if err := cbor.Unmarshal(b, &parts); err != nil {
		return nil, fmt.Errorf("daxtest: projection: %w", err)
	}
	if len(parts) != 2 {
		return nil, fmt.Errorf("daxtest: a projection of %d parts", len(parts))
	}
	list, err := as[[]any](parts[1], "a projection's paths")
	if err != nil {
		return nil, err
	}
	return convert(list, func(node any) (path, error) {
		op, args, err := operation(node)
		if err != nil {
			return nil, err
		}
		if op != opPath {
			return nil, fmt.Errorf("daxtest: a projection with operation %d", op)
		}
		return parsePath(args)
	})
}
