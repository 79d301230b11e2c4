//go:build unix && !linux

package pluginhost

import (
	"errors"
	"os"
)

// newSealable fails: bytes can be sealed on Linux only.
func newSealable(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func seal(*os.File) error { return errors.ErrUnsupported }

func descriptorPath(f *os.File) string { return f.Name() }
