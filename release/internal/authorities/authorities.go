// Package authorities has the certificates of those whom Mozilla trusts to vouch
// for servers, by the version of the module in go.mod: those of the machine that
// builds would be others every time.
package authorities

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// fewest is less than there ever were: an empty list would be found by nobody
// before it is needed.
const fewest = 50

// PEM returns the certificates in the form of ca-certificates.crt, the same for
// the same version of the module. An authority that is trusted on a condition,
// which that form can not say, is left out.
func PEM() ([]byte, error) {
	var out []byte
	n := 0
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		c, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			return nil, err
		}
		out = fmt.Appendf(out, "# %s\n", c.Subject)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})...)
		n++
	}
	if n < fewest {
		return nil, fmt.Errorf("there are only %d authorities", n)
	}
	return out, nil
}
