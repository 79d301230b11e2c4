// Package state is the file in which the starter of the emulators says what
// runs, and where.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Dir is the folder of the emulators below the repository's root.
const Dir = ".tools/emulators"

// State holds the emulators that were started, by name. An emulator that is in
// here may have died since.
type State map[string]Process

// Process is one emulator that was started.
type Process struct {
	// Endpoint is the base URL, without a slash at its end.
	Endpoint string `json:"endpoint"`
	// PID is the process, and the process group that it leads.
	PID int `json:"pid"`
	// Started tells this process from a later one with the same PID.
	Started string `json:"started"`
	// Pin stands for everything that it was installed and started from.
	Pin string `json:"pin"`
	// Version is what people call that.
	Version string `json:"version"`
	// Log is the file that holds what it printed.
	Log string `json:"log"`
}

// Read returns the state that is kept in dir: an empty one where there is none.
func Read(dir string) (State, error) {
	text, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err != nil {
		return nil, err
	}
	s := State{}
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "state.json"), err)
	}
	return s, nil
}

// Write keeps the state in dir. Readers see the old one or the new one whole.
func (s State) Write(dir string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "state-*.json")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone already where all went well
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, "state.json"))
}
