package daxread

import "errors"

// What a DAX node may send. An item has at most 400 KiB and 32 levels; lists
// of a batch have two elements for each of 100 items.
const (
	maxElements = 1 << 16
	maxString   = 1 << 20
	maxDepth    = 64
)

var errMalformed = errors.New("not an answer of DAX")

// scanner reads along with the client library and stops it before it allocates
// what a broken header asks for. The library trusts every length, also in
// goroutines of its own, where a panic would end the process.
//
// It sees the structure of answers, not what lies inside of byte strings:
// there the library decodes items, in the goroutine of the call.
type scanner struct {
	skip     uint64   // bytes left of a string
	argument uint64   // of the header being read
	missing  int      // bytes that the argument still lacks
	major    byte     // of the header being read
	open     []uint64 // items that each open list still lacks; endless lists have endless
}

const endless = 1<<64 - 1

// feed takes the next bytes of the stream.
func (s *scanner) feed(b []byte) error {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(s.skip, uint64(len(b)))
			s.skip, b = s.skip-n, b[n:]
			if s.skip == 0 {
				s.end()
			}
			continue
		}
		c := b[0]
		b = b[1:]
		if s.missing > 0 {
			s.argument = s.argument<<8 | uint64(c)
			if s.missing--; s.missing > 0 {
				continue
			}
		} else if complete, err := s.header(c); err != nil {
			return err
		} else if !complete {
			continue
		}
		if err := s.begin(); err != nil {
			return err
		}
	}
	return nil
}

// header takes an item's first byte. It reports whether the argument is
// already known.
func (s *scanner) header(c byte) (complete bool, err error) {
	s.major = c >> 5
	switch info := c & 0x1f; {
	case info < 24:
		s.argument = uint64(info)
		return true, nil
	case info < 28:
		if c == 0xf9 {
			return false, errMalformed // a short float: the library panics
		}
		s.argument, s.missing = 0, 1<<(info-24)
		return false, nil
	case c == 0x9f || c == 0xbf:
		return false, s.push(endless)
	case c == 0xff && len(s.open) > 0 && s.open[len(s.open)-1] == endless:
		s.open = s.open[:len(s.open)-1]
		s.end()
		return false, nil
	}
	return false, errMalformed
}

// begin takes an item whose header is complete.
func (s *scanner) begin() error {
	switch s.major {
	case 2, 3:
		if s.argument > maxString {
			return errMalformed
		}
		if s.skip = s.argument; s.skip > 0 {
			return nil
		}
	case 4, 5:
		if s.argument > maxElements {
			return errMalformed
		}
		if s.argument > 0 {
			return s.push(s.argument * uint64(s.major-3)) // a map has pairs
		}
	case 6:
		return nil // the tagged item follows
	}
	s.end()
	return nil
}

func (s *scanner) push(n uint64) error {
	if len(s.open) == maxDepth {
		return errMalformed
	}
	s.open = append(s.open, n)
	return nil
}

// end closes an item, and the lists that it was the last of.
func (s *scanner) end() {
	for len(s.open) > 0 {
		last := &s.open[len(s.open)-1]
		if *last == endless {
			return
		}
		if *last--; *last > 0 {
			return
		}
		s.open = s.open[:len(s.open)-1]
	}
}
