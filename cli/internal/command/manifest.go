package command

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/manifest"
)

// manifestKeyVariable is the service's own setting: who signs is the same for
// both.
const manifestKeyVariable = "TAGSTORE_MANIFEST_KEY"

// maxKey bounds what is read of a key.
const maxKey = 64 << 10

func (a *app) manifestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "manifest",
		GroupID: groupSystem,
		Short:   "Pin, sign and verify the manifest of a service",
		Long: `Pin, sign and verify the manifest of a service, the YAML file that names plugins and
routes. Outside development a service takes only a manifest that has the checksum of
every file that it names, and the signature of a key that the service was given.`,
		Example: `  tagctl manifest keygen release.key
  tagctl manifest pin tagstore.yaml
  tagctl manifest sign tagstore.yaml --key release.key
  tagctl manifest verify tagstore.yaml --key release.key.pub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.manifestKeygenCommand(), a.manifestPinCommand(), a.manifestSignCommand(), a.manifestVerifyCommand())
	return cmd
}

func (a *app) manifestKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a key to sign manifests with",
		Long: `Make an ed25519 key to sign manifests with: FILE gets the private key, readable for
you alone, and FILE.pub the public one, both in PEM form. What is printed is the public
key as the service's setting ` + manifestKeyVariable + ` takes it; the path of FILE.pub does
as well. Files that are there are left alone.

To change the key while services run, give them a file with the old and the new public
key, sign with the new one, and then take the old one out.`,
		Example: `  tagctl manifest keygen release.key
  export ` + manifestKeyVariable + `="$(tagctl manifest keygen release.key)"
  cat old.key.pub new.key.pub > both.pub`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(_ *cobra.Command, args []string) error {
			public, key, err := ed25519.GenerateKey(nil)
			if err != nil {
				return err
			}
			private, readable, err := manifest.MarshalKeys(key)
			if err != nil {
				return err
			}
			path := args[0]
			for _, file := range []string{path, path + ".pub"} {
				if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
					return local(config.AlreadyExists, "name another file, or remove the key if nothing needs it any more", "%s is there already", file)
				}
			}
			if err := create(path, private, 0o600); err != nil {
				return err
			}
			if err := create(path+".pub", readable, 0o644); err != nil {
				return err
			}
			setting := base64.StdEncoding.EncodeToString(public)
			if a.global.output == outputJSON {
				return a.printJSON(struct {
					PrivateKeyFile string `json:"private_key_file"`
					PublicKeyFile  string `json:"public_key_file"`
					PublicKey      string `json:"public_key"`
				}{path, path + ".pub", setting})
			}
			a.note("The private key is %s, the public one %s.pub and %s:", path, path, manifestKeyVariable)
			return a.print(setting + "\n")
		}),
	}
}

// create writes a file that is not there yet.
func create(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fileError(err)
	}
	_, err = f.Write(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = os.Remove(path) // half of it is of no use
		return fileError(err)
	}
	return nil
}

type pinnedJSON struct {
	Of      string `json:"of"`
	File    string `json:"file"`
	SHA256  string `json:"sha256"`
	Arch    string `json:"arch"` // "" for a sum that is for all
	Changed bool   `json:"changed"`
}

func (a *app) manifestPinCommand() *cobra.Command {
	var arch string
	cmd := &cobra.Command{
		Use:   "pin FILE",
		Short: "Write the checksums of what a manifest names into it",
		Long: `Write the sha256 of every plugin and schema that a manifest names into it, in place of
those that stand there. Where a plugin has a sum for each architecture, that of this
machine is written, or with --arch that of the named one, whose plugins have to lie there:
a single sum becomes one for each. Comments and layout stay. Sign the manifest afterwards:
a signature that it had is not right any more.`,
		Example: `  tagctl manifest pin tagstore.yaml
  tagctl manifest pin tagstore.yaml -o json
  tagctl manifest pin tagstore.yaml --arch arm64
  tagctl manifest pin tagstore.yaml && tagctl manifest sign tagstore.yaml --key release.key`,
		Args: cobra.ExactArgs(1),
		RunE: a.run(func(_ *cobra.Command, args []string) error {
			path := args[0]
			pin := manifest.Pin
			if arch != "" {
				pin = func(path string) ([]byte, []manifest.Pinned, error) { return manifest.PinFor(path, arch) }
			}
			text, sums, err := pin(path)
			if err != nil {
				return err
			}
			changed := false
			for _, s := range sums {
				changed = changed || s.Changed
			}
			if changed {
				if err := replaceFile(path, text); err != nil {
					return err
				}
			}
			if a.global.output == outputJSON {
				out := make([]pinnedJSON, len(sums))
				for i, s := range sums {
					out[i] = pinnedJSON(s)
				}
				return a.printJSON(struct {
					Pinned []pinnedJSON `json:"pinned"`
				}{out})
			}
			t := newTable("OF", "FILE", "SHA256", "ARCH", "CHANGED")
			for _, s := range sums {
				arch, changed := "-", "no"
				if s.Arch != "" {
					arch = s.Arch
				}
				if s.Changed {
					changed = "yes"
				}
				t.add(s.Of, s.File, s.SHA256, arch, changed)
			}
			if err := a.print(t.String()); err != nil {
				return err
			}
			if _, err := os.Lstat(manifest.SignaturePath(path)); err == nil && changed {
				a.note("Sign it anew: %s is for what stood there before.", manifest.SignaturePath(path))
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&arch, "arch", "", "architecture of the plugins, by Go's name, where the manifest is to have a sum for each")
	return cmd
}

// replaceFile puts text in place of what a file holds, in one step, and keeps its
// mode. Of a symbolic link, what it leads to is replaced.
func replaceFile(path string, text []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fileError(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fileError(err)
	}
	return writeFile(path, text, info.Mode().Perm())
}

// writeFile writes a file in one step: whoever reads it sees all of it or what
// was there before.
func writeFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fileError(err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to report
		return fileError(err)
	}
	return nil
}

func fileError(err error) error {
	return local(config.FailedPrecondition, "see to the file's folder and its permissions", "%s", err.Error())
}

func (a *app) manifestSignCommand() *cobra.Command {
	var keyPath string
	cmd := &cobra.Command{
		Use:   "sign FILE --key PRIVATE_KEY|-",
		Short: "Check a manifest and sign it",
		Long: `Check a manifest as a service does outside development, and write its signature beside
it, as FILE.sig. What a service would refuse is not signed: put the plugins where the
manifest has them, and pin it first.

The key is the file that 'tagctl manifest keygen' wrote, or - for standard input. A file
that others can read is refused.`,
		Example: `  tagctl manifest sign tagstore.yaml --key release.key
  tagctl manifest sign tagstore.yaml --key - < release.key
  tagctl manifest sign tagstore.yaml --key release.key -o json`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&keyPath, "key", "", "private key, a PEM file, or - for standard input (required)")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		key, err := a.privateKey(cmd, keyPath)
		if err != nil {
			return err
		}
		path := args[0]
		text, err := manifest.Sign(path, key)
		if err != nil {
			return err
		}
		sigPath := manifest.SignaturePath(path)
		if err := writeFile(sigPath, text, 0o644); err != nil {
			return err
		}
		if a.global.output == outputJSON {
			return a.printJSON(struct {
				SignatureFile string `json:"signature_file"`
				PublicKey     string `json:"public_key"`
			}{sigPath, base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))})
		}
		a.note("Signed: %s", sigPath)
		return nil
	})
	return cmd
}

func (a *app) privateKey(cmd *cobra.Command, path string) (ed25519.PrivateKey, error) {
	in := a.process.Stdin
	switch path {
	case "":
		return nil, usagef(cmd, "--key is missing")
	case "-":
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef(cmd, "--key: %w", err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, usagef(cmd, "--key: %w", err)
		}
		if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			return nil, local(config.FailedPrecondition, "chmod 600 it; if others may have read it, make a new one", "others can read the private key in %s", path)
		}
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxKey))
	if err != nil {
		return nil, usagef(cmd, "--key: %w", err)
	}
	key, err := manifest.ParsePrivateKey(text)
	if err != nil {
		return nil, named("--key", err)
	}
	return key, nil
}

func (a *app) manifestVerifyCommand() *cobra.Command {
	var keyText string
	cmd := &cobra.Command{
		Use:   "verify FILE --key PUBLIC_KEY",
		Short: "Hold a manifest to what a service asks of it",
		Long: `Hold a manifest to what a service asks of it outside development: the signature in
FILE.sig, and then everything else, with the files that it names. Exit status 6 says that
a service would refuse it.`,
		Example: `  tagctl manifest verify tagstore.yaml --key release.key.pub
  tagctl manifest verify tagstore.yaml --key 9Kv0…=
  ` + manifestKeyVariable + `=release.key.pub tagctl manifest verify tagstore.yaml`,
		Args: cobra.ExactArgs(1),
	}
	manifestKeyFlag(cmd, &keyText, "key")
	cmd.RunE = a.run(func(cmd *cobra.Command, args []string) error {
		key, err := a.manifestKey(keyText)
		if err != nil {
			return err
		}
		if key.IsZero() {
			return usagef(cmd, "--key is missing")
		}
		m, err := manifest.Load(args[0], manifest.Options{Key: key})
		if err != nil {
			return err
		}
		if a.global.output == outputJSON {
			names := make([]string, len(m.Backends))
			for i, b := range m.Backends {
				names[i] = b.Name
			}
			return a.printJSON(struct {
				Backends []string `json:"backends"`
				Routes   int      `json:"routes"`
			}{names, len(m.Routes)})
		}
		a.note("A service would take it: %d backends, %d routes.", len(m.Backends), len(m.Routes))
		return nil
	})
	return cmd
}

func manifestKeyFlag(cmd *cobra.Command, value *string, name string) {
	cmd.Flags().StringVar(value, name, "", "public key of who signs the manifest: base64, or a PEM file ("+manifestKeyVariable+")")
}

// manifestKey reads the key of a flag, or else of the variable; the zero Key if
// there is none.
func (a *app) manifestKey(flag string) (manifest.Key, error) {
	from, text := "the key", flag
	if text == "" {
		from, text = manifestKeyVariable, a.getenv(manifestKeyVariable)
	}
	if text == "" {
		return manifest.Key{}, nil
	}
	key, err := manifest.ParseKey(text)
	if err != nil {
		return manifest.Key{}, named(from, err)
	}
	return key, nil
}

// named says in front of an error's message what it is about.
func named(what string, err error) error {
	var e *config.Error
	if !errors.As(err, &e) {
		return err
	}
	return local(e.Code, e.Hint, "%s %s", what, e.Message)
}
