package devissuer

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tagstore/tagstore/core/config"
)

const (
	keyBits = 2048
	keyMode = 0o600
	pemType = "PRIVATE KEY" // PKCS #8, RFC 5958
)

// GenerateKey returns a new RSA key of 2048 bits.
func GenerateKey() (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, &config.Error{Op: "devissuer.GenerateKey", Code: config.Internal, Message: "no key can be generated", Err: err}
	}
	return key, nil
}

// LoadOrCreate returns the key in the PEM file at path, or makes one and
// stores it there with mode 0600, so that an issuer that is started again
// keeps its key and the tokens handed out before stay good. The file appears
// whole or not at all; of two that create it at once, both get the same key.
//
// A file that others may read, or that does not hold an RSA key of 2048 bits
// or more, is FailedPrecondition; one that can not be read or written is
// Unavailable.
func LoadOrCreate(path string) (*rsa.PrivateKey, error) {
	key, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = GenerateKey(); err != nil {
		return nil, err
	}
	switch err := store(path, key); {
	case errors.Is(err, fs.ErrExist):
		return load(path)
	case err != nil:
		return nil, unavailable("the key file can not be written", err)
	}
	return key, nil
}

func load(path string) (*rsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unavailable("the key file can not be read", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&^keyMode != 0 {
		return nil, unfit("the key file may be read or written by others", "delete it, or run chmod 600 on it")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, unavailable("the key file can not be read", err)
	}
	const mend = "delete it, a new one is made"
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return nil, unfit("the key file is not one PEM private key", mend)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, unfit("the key file is damaged", mend)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() < keyBits {
		return nil, unfit("the key file holds no RSA key of 2048 bits or more", mend)
	}
	return key, nil
}

// store writes the key to a file of its own first and then gives it its name,
// unless the name is taken, which is fs.ErrExist.
func store(path string, key *rsa.PrivateKey) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// CreateTemp makes files of mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	err = pem.Encode(f, &pem.Block{Type: pemType, Bytes: der})
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

func unfit(message, hint string) error {
	return &config.Error{Op: "devissuer.LoadOrCreate", Code: config.FailedPrecondition, Message: message, Hint: hint}
}

func unavailable(message string, err error) error {
	return &config.Error{
		Op: "devissuer.LoadOrCreate", Code: config.Unavailable, Message: message,
		Hint: "check the path and the rights on its folder", Err: err,
	}
}
