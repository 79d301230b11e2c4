package manifest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign signs whatever stands in the file.
func sign(t testing.TB, path string, key ed25519.PrivateKey) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, manifest.SignaturePath(path), manifest.Signature(data, key))
}

func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

const pinned = "version: 1\nbackends: { a: { plugin: plugins/fake, sha256: SUM } }\n" +
	"routes: [{ prefix: a_, backend: a, schema: schemas/param.json, schema_sha256: SCHEMASUM }]\n"

// signed lays out a manifest that is good in production.
func signed(t *testing.T) (path string, o manifest.Options, key ed25519.PrivateKey) {
	t.Helper()
	enter(t)
	key = newKey(t)
	put(t, "tagstore.yaml", filled([]byte(pinned)))
	sign(t, "tagstore.yaml", key)
	o = manifest.Options{Key: manifest.KeyOf(key)}
	if _, err := manifest.Load("tagstore.yaml", o); err != nil {
		t.Fatalf("the manifest is not good to begin with: %v", err)
	}
	return "tagstore.yaml", o, key
}

func refused(t *testing.T, path string, o manifest.Options, says ...string) {
	t.Helper()
	m, err := manifest.Load(path, o)
	var e *config.Error
	if m != nil || !errors.As(err, &e) || e.Code != config.InvalidArgument {
		t.Fatalf("got %v, %v", m, err)
	}
	for _, want := range says {
		if !strings.Contains(e.Message, want) {
			t.Errorf("it does not say %q: %s", want, e.Message)
		}
	}
}

// One bit anywhere in the manifest, what it names, or the signature.
func TestR11OneBitIsRefused(t *testing.T) {
	path, o, _ := signed(t)
	for _, file := range []string{path, manifest.SignaturePath(path), "plugins/fake", "schemas/param.json"} {
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			if whole[i] == '\n' && file == manifest.SignaturePath(path) {
				continue // it is not part of the signature
			}
			changed := bytes.Clone(whole)
			changed[i] ^= 1
			put(t, file, changed)
			if m, err := manifest.Load(path, o); m != nil || err == nil {
				t.Errorf("%s was accepted with another bit in byte %d", file, i)
			}
		}
		put(t, file, whole)
		if _, err := manifest.Load(path, o); err != nil {
			t.Fatal(err)
		}
	}
}

func TestR11UnsignedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, path string, o *manifest.Options, key ed25519.PrivateKey)
		says   []string
	}{
		"no signature": {
			func(t *testing.T, path string, _ *manifest.Options, _ ed25519.PrivateKey) {
				if err := os.Remove(manifest.SignaturePath(path)); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"tagstore.yaml: the manifest is not signed: there is no tagstore.yaml.sig", "tagctl manifest sign"},
		},
		"no key": {
			func(_ *testing.T, _ string, o *manifest.Options, _ ed25519.PrivateKey) { o.Key = manifest.Key{} },
			[]string{"tagstore.yaml: there is no key", "TAGSTORE_MANIFEST_KEY", "development"},
		},
		"another key": {
			func(t *testing.T, _ string, o *manifest.Options, _ ed25519.PrivateKey) {
				o.Key = manifest.KeyOf(newKey(t))
			},
			[]string{"tagstore.yaml: the manifest is not what was signed, or was signed with another key", "tagctl manifest sign"},
		},
		"another key in development": {
			func(t *testing.T, _ string, o *manifest.Options, _ ed25519.PrivateKey) {
				*o = manifest.Options{Dev: true, Key: manifest.KeyOf(newKey(t))}
			},
			[]string{"signed with another key"},
		},
		"signature of something else": {
			func(t *testing.T, path string, _ *manifest.Options, key ed25519.PrivateKey) {
				put(t, manifest.SignaturePath(path), manifest.Signature([]byte("version: 1\n"), key))
			},
			[]string{"is not what was signed"},
		},
		"empty signature": {
			func(t *testing.T, path string, _ *manifest.Options, _ ed25519.PrivateKey) {
				put(t, manifest.SignaturePath(path), nil)
			},
			[]string{"tagstore.yaml.sig: this is not the base64 of a signature"},
		},
		"short signature": {
			func(t *testing.T, path string, _ *manifest.Options, _ ed25519.PrivateKey) {
				put(t, manifest.SignaturePath(path), []byte(base64.StdEncoding.EncodeToString(make([]byte, 63))))
			},
			[]string{"tagstore.yaml.sig: this is not the base64 of a signature"},
		},
		"signature that is a folder": {
			func(t *testing.T, path string, _ *manifest.Options, _ ed25519.PrivateKey) {
				if err := os.Remove(manifest.SignaturePath(path)); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(manifest.SignaturePath(path), 0o700); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"tagstore.yaml.sig: the signature can not be read"},
		},
		// Nothing of what nobody signed is read, let alone told.
		"unsigned nonsense": {
			func(t *testing.T, path string, _ *manifest.Options, _ ed25519.PrivateKey) {
				put(t, path, []byte("nonsense: [\n"))
			},
			[]string{"tagstore.yaml: the manifest is not what was signed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path, o, key := signed(t)
			c.change(t, path, &o, key)
			refused(t, path, o, c.says...)
		})
	}
}

func TestDevNeedsNoSignature(t *testing.T) {
	path, _, _ := signed(t)
	if err := os.Remove(manifest.SignaturePath(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Load(path, manifest.Options{Dev: true}); err != nil {
		t.Error(err)
	}
}

// While files are replaced under Load, it returns what was signed or nothing.
func TestR11SignedBytesAreParsed(t *testing.T) {
	path, o, _ := signed(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(good, []byte("prefix: a_"), []byte("prefix: b_"), 1)
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			text := good
			if i%2 == 0 {
				text = forged
			}
			if err := os.WriteFile("next", text, 0o600); err != nil {
				t.Error(err)
				return
			}
			if err := os.Rename("next", path); err != nil {
				t.Error(err)
				return
			}
		}
	})
	accepted, refused := 0, 0
	for end := time.Now().Add(time.Minute); (accepted < 200 || refused < 200) && time.Now().Before(end); {
		m, err := manifest.Load(path, o)
		if err != nil {
			refused++
			continue
		}
		accepted++
		if m.Routes[0].Prefix != "a_" {
			t.Error("what was parsed is not what was signed")
			break
		}
	}
	close(stop)
	swapping.Wait()
	if accepted < 200 || refused < 200 {
		t.Errorf("%d were accepted and %d refused: the two did not meet", accepted, refused)
	}
}

// Sign signs only what Load would take, and what it signs is taken.
func TestSign(t *testing.T) {
	path, o, key := signed(t)
	text, err := manifest.Sign(path, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(manifest.SignaturePath(path)); err != nil {
		t.Fatal(err)
	}
	put(t, manifest.SignaturePath(path), text)
	if _, err := manifest.Load(path, o); err != nil {
		t.Error(err)
	}
	put(t, path, bytes.Replace(filled([]byte(pinned)), []byte(", sha256: "+sum()), nil, 1))
	if _, err := manifest.Sign(path, key); err == nil || !strings.Contains(err.Error(), "no sha256") {
		t.Errorf("a manifest without a checksum: %v", err)
	}
}

func TestParseKey(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, data ...[]byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		put(t, path, bytes.Join(data, nil))
		return path
	}
	old, next, stranger := newKey(t), newKey(t), newKey(t)
	private, public, err := manifest.MarshalKeys(old)
	if err != nil {
		t.Fatal(err)
	}
	_, nextPublic, err := manifest.MarshalKeys(next)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	foreign := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	otherDER, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	raw := base64.StdEncoding.EncodeToString(old.Public().(ed25519.PublicKey))

	data := []byte("version: 1\n")
	manifestPath := file("m.yaml", data)
	for name, c := range map[string]struct {
		text string
		of   []ed25519.PrivateKey
	}{
		"base64":        {raw, []ed25519.PrivateKey{old}},
		"with line end": {raw + "\n", []ed25519.PrivateKey{old}},
		"file":          {file("one.pub", public), []ed25519.PrivateKey{old}},
		"two in a file": {file("two.pub", public, nextPublic), []ed25519.PrivateKey{old, next}},
	} {
		k, err := manifest.ParseKey(c.text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, signer := range append(c.of, stranger) {
			put(t, manifest.SignaturePath(manifestPath), manifest.Signature(data, signer))
			if err := k.Verify(data, manifestPath); (err == nil) != !signer.Equal(stranger) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, c := range map[string]struct{ text, says string }{
		"empty":          {"", "neither"},
		"short":          {raw[:20], "neither"},
		"no such file":   {filepath.Join(dir, "none"), "neither"},
		"private key":    {file("key", private), "is a private key"},
		"other key":      {file("p256", foreign), "not ed25519's"},
		"no PEM":         {file("text", []byte("hello")), "no public key"},
		"other block":    {file("block", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})), "another type"},
		"one of two bad": {file("half", public, foreign), "not ed25519's"},
	} {
		k, err := manifest.ParseKey(c.text)
		var e *config.Error
		if !errors.As(err, &e) || e.Code != config.InvalidArgument || !strings.Contains(e.Message, c.says) || e.Hint == "" || !k.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
		if c.text != "" && strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: the error shows the setting", name)
		}
	}
	if got, err := manifest.ParsePrivateKey(private); err != nil || !got.Equal(old) {
		t.Errorf("the private key does not come back: %v", err)
	}
	for name, text := range map[string][]byte{
		"public": public, "empty": nil, "other key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: otherDER}),
		"garbage": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
	} {
		if _, err := manifest.ParsePrivateKey(text); err == nil {
			t.Errorf("%s was taken for a private key", name)
		}
	}
}
