package pluginhost

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"slices"
	"sync"
)

// digest is of everything that makes a plugin what it is. It is compared only:
// values of its environment are part of it.
type digest [sha256.Size]byte

// sum digests a plugin with a program of these bytes.
func (p Plugin) sum(program string) digest {
	env := map[string]string{}
	names := p.Env
	if p.AWS {
		names = append(slices.Clip(names), awsEnvironment()...)
	}
	for _, name := range names {
		if value, set := os.LookupEnv(name); set {
			env[name] = value
		}
	}
	text, err := json.Marshal(struct {
		Plugin  Plugin
		Program string
		Env     map[string]string
	}{p, program, env})
	if err != nil {
		// Options are no JSON, which the plugin is to say: what can not be
		// compared is another one.
		return sha256.Sum256([]byte(p.Name))
	}
	return sha256.Sum256(text)
}

// sameStore reports whether two plugins lead to the same store: nothing of them
// differs but the program and the bounds that it is held to. Options that mean
// the same in other words count as another store, which costs no more than what
// is held in memory.
func sameStore(a, b Plugin) bool { return a.storeSum() == b.storeSum() }

func (p Plugin) storeSum() digest {
	p.Path, p.SHA256, p.MTLS = "", "", false
	p.CallTimeout, p.Limits, p.Concurrency = 0, Limits{}, 0
	return p.sum("")
}

// programs digests plugins, each program once.
type programs struct {
	mu     sync.Mutex
	byPath map[string]func() string
}

func (s *programs) digest(p Plugin) digest {
	if p.SHA256 != "" || p.Path == "" {
		return p.sum(p.SHA256) // the launch holds it to that
	}
	s.mu.Lock()
	if s.byPath == nil {
		s.byPath = map[string]func() string{}
	}
	read, ok := s.byPath[p.Path]
	if !ok {
		read = sync.OnceValue(func() string { return sumOf(p.Path) })
		s.byPath[p.Path] = read
	}
	s.mu.Unlock()
	return p.sum(read())
}

// sumOf returns "" for what can not be read, which the launch says better.
func sumOf(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}
