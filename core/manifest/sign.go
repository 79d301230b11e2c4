package manifest

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"strings"

	"github.com/tagstore/tagstore/core/config"
)

// The types of the PEM blocks that keys stand in.
const (
	publicBlock  = "PUBLIC KEY"  // RFC 8410
	privateBlock = "PRIVATE KEY" // RFC 5958, PKCS #8
)

// Key says whose signature a manifest must have: that of the owner of any of
// these ed25519 keys. The zero Key is nobody's.
type Key struct{ public []ed25519.PublicKey }

// IsZero reports whether k is nobody's.
func (k Key) IsZero() bool { return len(k.public) == 0 }

// KeyOf returns the Key whose signatures private makes.
func KeyOf(private ed25519.PrivateKey) Key {
	return Key{[]ed25519.PublicKey{private.Public().(ed25519.PublicKey)}}
}

// ParseKey reads what a setting says: the base64 of the 32 bytes of a public
// key, or the path of a PEM file with one or more, so that a new one can be
// introduced before the old one is retired. The error has code InvalidArgument.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	if raw, err := base64.StdEncoding.DecodeString(text); err == nil && len(raw) == ed25519.PublicKeySize {
		return Key{[]ed25519.PublicKey{raw}}, nil
	}
	const mend = "give the base64 of 32 bytes that 'tagctl manifest keygen' printed, or the path of the .pub file that it wrote"
	data, err := readBounded(text)
	if err != nil {
		// The text is not shown: somebody may have taken the private key.
		return Key{}, badKey("is neither the base64 of 32 bytes nor a file that can be read: %s", plain(err)).WithHint(mend)
	}
	var k Key
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type == privateBlock {
			return Key{}, badKey("is a private key").WithHint("keep it where manifests are signed, and give the .pub file")
		}
		if block.Type != publicBlock {
			return Key{}, badKey("has a PEM block of another type").WithHint(mend)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		public, ok := parsed.(ed25519.PublicKey)
		if err != nil || !ok {
			return Key{}, badKey("has a key that is not ed25519's").WithHint(mend)
		}
		k.public = append(k.public, public)
	}
	if k.IsZero() {
		return Key{}, badKey("has no public key in PEM form").WithHint(mend)
	}
	return k, nil
}

// ParsePrivateKey reads the private key in a PEM file. The error has code
// InvalidArgument and shows nothing of it.
func ParsePrivateKey(data []byte) (ed25519.PrivateKey, error) {
	const mend = "make one with 'tagctl manifest keygen'"
	block, _ := pem.Decode(data)
	switch {
	case block == nil || block.Type != privateBlock && block.Type != publicBlock:
		return nil, badKey("has no private key in PEM form").WithHint(mend)
	case block.Type == publicBlock:
		return nil, badKey("has a public key and no private one").WithHint("give the private one that belongs to it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, badKey("has a key that is not ed25519's").WithHint(mend)
	}
	return private, nil
}

// MarshalKeys returns the PEM files of a private key and of its public key.
func MarshalKeys(key ed25519.PrivateKey) (private, public []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	private = pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der})
	if der, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, nil, err
	}
	return private, pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der}), nil
}

func badKey(format string, args ...any) *config.Error {
	return config.Errorf(config.InvalidArgument, format, args...)
}

// SignaturePath returns where the signature of the manifest at path lies.
func SignaturePath(path string) string { return path + ".sig" }

// Signature returns what stands in the signature file of a manifest of these
// bytes.
func Signature(data []byte, key ed25519.PrivateKey) []byte {
	return []byte(base64.StdEncoding.EncodeToString(ed25519.Sign(key, data)) + "\n")
}

// Sign checks the manifest at path as Load does outside development, its
// signature apart, and returns what has to stand in its signature file. What is
// signed is what was checked.
func Sign(path string, key ed25519.PrivateKey) ([]byte, error) {
	_, data, err := load(path, func([]byte) error { return nil }, false)
	if err != nil {
		return nil, err
	}
	return Signature(data, key), nil
}

// Verify reports what is wrong with the signature that lies beside the manifest
// at path, whose bytes are data. The error has code InvalidArgument and one line,
// as those of Load.
func (k Key) Verify(data []byte, path string) error {
	sigPath := SignaturePath(path)
	found := &problems{path: sigPath}
	text, err := readBounded(sigPath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		found.path = path
		found.add(0, "sign it with 'tagctl manifest sign', or run in development mode", "the manifest is not signed: there is no %s", sigPath)
		return found.err()
	case err != nil:
		found.add(0, "sign the manifest with 'tagctl manifest sign'", "the signature can not be read: %s", plain(err))
		return found.err()
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(signature) != ed25519.SignatureSize {
		found.add(0, "sign the manifest with 'tagctl manifest sign'", "this is not the base64 of a signature of 64 bytes")
		return found.err()
	}
	for _, public := range k.public {
		if ed25519.Verify(public, data, signature) {
			return nil
		}
	}
	found.path = path
	found.add(0, "find out who changed it; then sign it with 'tagctl manifest sign' and the key that belongs to the public one",
		"the manifest is not what was signed, or was signed with another key")
	return found.err()
}

// verify holds a manifest to what the options ask for.
func (o Options) verify(data []byte, path string) error {
	switch {
	case !o.Key.IsZero():
		return o.Key.Verify(data, path)
	case o.Dev:
		return nil
	}
	found := &problems{path: path}
	found.add(0, "set TAGSTORE_MANIFEST_KEY to the public key of who signs it, or run in development mode",
		"there is no key to check the manifest's signature with")
	return found.err()
}
