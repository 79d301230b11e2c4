package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// maxProblems is how many problems one error lists.
const maxProblems = 50

// problems collects what is wrong, so that all of it is told at once.
type problems struct {
	path string
	list []problem
}

type problem struct {
	line int // 0: the file as a whole
	text string
}

func (p *problems) add(line int, mend, format string, args ...any) {
	p.list = append(p.list, problem{line, fmt.Sprintf(format, args...) + " (" + mend + ")"})
}

// err returns all problems as one error, nil if there are none.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	var lines []string
	for i, one := range p.list {
		if i == maxProblems {
			lines = append(lines, fmt.Sprintf("%s: %d more problems (mend these first)", p.path, len(p.list)-i))
			break
		}
		where := p.path
		if one.line > 0 {
			where = fmt.Sprintf("%s:%d", p.path, one.line)
		}
		lines = append(lines, where+": "+one.text)
	}
	return &config.Error{Op: "manifest.Load", Code: config.InvalidArgument, Message: strings.Join(lines, "\n")}
}

// quote shows text of the manifest on one line and at bounded length.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}
