package authorities

import (
	"bytes"
	"crypto/x509"
	"testing"
)

func TestPEM(t *testing.T) {
	text, err := PEM()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("nothing of it can be read")
	}
	for _, name := range []string{"Amazon Root CA 1", "Starfield Services Root Certificate Authority - G2"} { // AWS's own
		if !bytes.Contains(text, []byte(name)) {
			t.Errorf("%s is not in it", name)
		}
	}
}
