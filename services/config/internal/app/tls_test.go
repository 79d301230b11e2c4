package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/services/config/internal/app"
)

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, cert}
}

// issue returns a certificate for loopback and its key, in PEM form.
func (a authority) issue(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func pair(t *testing.T, cert, key []byte) tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// With TLS the service takes what it should and nothing less; with a client CA
// it takes only clients that the CA knows.
func TestTLS(t *testing.T) {
	ours, strangers := newAuthority(t), newAuthority(t)
	cert, private := ours.issue(t)
	known := pair(t, cert, private)
	strangerCert, strangerKey := strangers.issue(t)
	stranger := pair(t, strangerCert, strangerKey)
	d := deploy(t, manifestText)
	certFile, keyFile, caFile := filepath.Join(d.dir, "cert.pem"), filepath.Join(d.dir, "key.pem"), filepath.Join(d.dir, "ca.pem")
	write(t, certFile, cert, 0o600)
	write(t, keyFile, private, 0o600)
	write(t, caFile, ours.pem(), 0o600)

	for mode, c := range map[string]struct {
		set                          []string
		bare, withKnown, withUnknown bool
	}{
		"TLS":  {[]string{"TAGSTORE_TLS_CERT=" + certFile, "TAGSTORE_TLS_KEY=" + keyFile}, true, true, true},
		"mTLS": {[]string{"TAGSTORE_TLS_CERT=" + certFile, "TAGSTORE_TLS_KEY=" + keyFile, "TAGSTORE_TLS_CLIENT_CA=" + caFile}, false, true, false},
	} {
		t.Run(mode, func(t *testing.T) {
			s := d.run(t, c.set...)
			try := func(config *tls.Config) bool {
				t.Helper()
				return serving(t, s.health(t, credentials.NewTLS(config)), "") == "SERVING"
			}
			trust := ours.pool()
			for name, row := range map[string]struct {
				config *tls.Config
				want   bool
			}{
				"no client certificate":     {&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}, c.bare},
				"a known certificate":       {&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{known}}, c.withKnown},
				"a stranger's certificate":  {&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{stranger}}, c.withUnknown},
				"an authority not trusted":  {&tls.Config{RootCAs: strangers.pool(), MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{known}}, false},
				"TLS 1.1":                   {&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, Certificates: []tls.Certificate{known}}, false},
				"TLS 1.2":                   {&tls.Config{RootCAs: trust, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{known}}, true},
				"TLS 1.3":                   {&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{known}}, true},
				"another host's name asked": {&tls.Config{RootCAs: trust, ServerName: "elsewhere.example", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{known}}, false},
			} {
				if got := try(row.config); got != row.want {
					t.Errorf("%s: connected %t, want %t", name, got, row.want)
				}
			}
			if serving(t, s.health(t, insecure.NewCredentials()), "") == "SERVING" {
				t.Error("plaintext was answered")
			}
			// Behind TLS a token still decides.
			full := s.client(t, client.WithTLS(&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{known}}))
			if _, err := full.Get(t.Context(), key(t, "tenant_config_x"), config.Service{}); !errors.Is(err, config.Unauthenticated) {
				t.Errorf("without a token: %v", err)
			}
			if _, err := full.Get(d.as(t, tenantA, auth.RoleReader), key(t, "tenant_config_x"), config.Service{}); !errors.Is(err, config.NotFound) {
				t.Errorf("with a token: %v", err)
			}
		})
	}
}

// Off loopback TLS is enough, and so is saying that plaintext is meant.
func TestOffLoopback(t *testing.T) {
	ours := newAuthority(t)
	cert, private := ours.issue(t)
	d := deploy(t, "")
	certFile, keyFile := filepath.Join(d.dir, "cert.pem"), filepath.Join(d.dir, "key.pem")
	write(t, certFile, cert, 0o600)
	write(t, keyFile, private, 0o600)
	for name, environ := range map[string][]string{
		"TLS":      d.set("TAGSTORE_LISTEN=0.0.0.0:0", "TAGSTORE_DEV=", "TAGSTORE_TLS_CERT="+certFile, "TAGSTORE_TLS_KEY="+keyFile),
		"insecure": d.set("TAGSTORE_LISTEN=0.0.0.0:0", "TAGSTORE_DEV=", "TAGSTORE_INSECURE=true"),
	} {
		t.Run(name, func(t *testing.T) {
			if err := app.CheckExposure(environ); err != nil {
				t.Error(err)
			}
		})
	}
}
