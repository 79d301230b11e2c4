package dev

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/tagstore/tagstore/core/config"
)

const (
	// DirVariable names the variable that moves the folder.
	DirVariable = "TAGSTORE_DEV_DIR"
	// InfoVariable tells Options.Also where to read an Info.
	InfoVariable = "TAGSTORE_DEV_INFO"
	defaultDir   = ".tagstore"
	infoFile     = "dev.json"
	// The roles of machines stand among the tenants of dev.json. They can not be
	// one of them here: the tenants are those that Run seeds.
	refresher = "refresher"
	operator  = "operator"
)

// Info is what dev.json holds: where a running system is and how to get in.
type Info struct {
	ConfigGRPC string `json:"config_grpc"` // host:port
	// ConfigGRPCAll has the address of every replica, ConfigGRPC the first, where
	// a number of them was asked for.
	ConfigGRPCAll  []string `json:"config_grpc_all,omitempty"`
	OrderHTTP      string   `json:"order_http"`      // URL
	ManagementHTTP string   `json:"management_http"` // URL, of the configuration service
	Issuer         string   `json:"issuer"`
	JWKSURL        string   `json:"jwks_url"`
	Manifest       string   `json:"manifest"` // absolute path
	// Machine is how a machine that announces changes gets tokens for itself.
	Machine Machine `json:"machine"`
	// Tokens holds, by tenant and role, a token of each.
	Tokens    map[string]map[string]string `json:"-"`
	Refresher string                       `json:"-"`
	Operator  string                       `json:"-"`
}

// Machine is an app client and where it fetches its tokens, by the client
// credentials grant.
type Machine struct {
	TokenURL     string `json:"token_url"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// Tenants returns the tenants that there are tokens for, sorted.
func (i Info) Tenants() []string { return slices.Sorted(maps.Keys(i.Tokens)) }

// fields keeps MarshalJSON and UnmarshalJSON from calling themselves.
type fields Info

// MarshalJSON puts the machines' tokens beside the tenants.
func (i Info) MarshalJSON() ([]byte, error) {
	tokens := map[string]any{refresher: i.Refresher, operator: i.Operator}
	for tenant, roles := range i.Tokens {
		tokens[tenant] = roles
	}
	return json.Marshal(struct {
		fields
		Tokens map[string]any `json:"tokens"`
	}{fields(i), tokens})
}

// UnmarshalJSON is the reverse of MarshalJSON.
func (i *Info) UnmarshalJSON(text []byte) error {
	var raw struct {
		fields
		Tokens map[string]json.RawMessage `json:"tokens"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	info := Info(raw.fields)
	info.Tokens = make(map[string]map[string]string, len(raw.Tokens))
	for name, token := range raw.Tokens {
		var err error
		switch name {
		case refresher:
			err = json.Unmarshal(token, &info.Refresher)
		case operator:
			err = json.Unmarshal(token, &info.Operator)
		default:
			var roles map[string]string
			err = json.Unmarshal(token, &roles)
			info.Tokens[name] = roles
		}
		if err != nil {
			return err
		}
	}
	*i = info
	return nil
}

// Dir returns the folder of the system that belongs to this environment.
func Dir(getenv func(string) string) string {
	if dir := getenv(DirVariable); dir != "" {
		return dir
	}
	return defaultDir
}

// InfoPath returns where dev.json of a folder is.
func InfoPath(dir string) string { return filepath.Join(dir, infoFile) }

// ReadInfo reads dev.json. Where no system is ready the error is
// fs.ErrNotExist.
func ReadInfo(dir string) (Info, error) {
	text, err := os.ReadFile(InfoPath(dir))
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(text, &info); err != nil {
		return Info{}, config.Errorf(config.FailedPrecondition, "%s is damaged", InfoPath(dir)).
			WithHint("stop 'tagctl dev' and start it again: it writes the file anew").WithCause(err)
	}
	return info, nil
}

// writeFile writes a file that only its owner can read, in one step: whoever
// reads it sees all of it or what was there before.
func writeFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to report
	}
	return err
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}

// remove is os.Remove for a file that may not be there.
func remove(path string) error {
	err := os.Remove(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
