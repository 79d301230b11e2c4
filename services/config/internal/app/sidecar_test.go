package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tagstore/tagstore/core/auth"
	"github.com/tagstore/tagstore/core/client"
	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/plugintest"
)

// One backend is a program that the service starts, the other one that runs in
// a container of its own: the first comes and goes with the service, the second
// as its owner likes.
func TestR34Sidecar(t *testing.T) {
	sockets, err := os.MkdirTemp("", "ts") // short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	binary, socket := plugintest.Build(t, localPlugin), filepath.Join(sockets, "tenants")
	sidecar := plugintest.RunAlone(t, binary, socket)
	data := filepath.Join(t.TempDir(), "tenants.db")
	launched := "    plugin: ./plugins/tagstore-plugin-local\n    options: { path: data/tenants.db }"
	attached := "    address: " + sidecar.Address() + "\n    options: { path: " + data + " }"
	d := deploy(t, strings.Replace(manifestText, launched, attached, 1))
	s := d.run(t)
	c := s.client(t)
	ctx := s.as(t, tenantA, auth.RoleAdmin)
	k := key(t, "tenant_config_x")
	if _, err := c.Put(ctx, client.PutRequest{Key: k, Value: []byte(`"1"`)}); err != nil {
		t.Fatal(err)
	}
	serves := func(pid int) func() bool {
		return func() bool {
			backends, err := c.ListBackends(ctx)
			return err == nil && backends[1].Name == "tenants" && backends[1].State == client.BackendServing && int(backends[1].PID) == pid
		}
	}
	eventually(t, "the sidecar serves", serves(sidecar.PID()))

	sidecar.Kill()
	sidecar = plugintest.RunAlone(t, binary, socket)
	if got, err := c.Get(ctx, k, config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
		t.Errorf("get while the sidecar is started again: %+v, %v", got, err)
	}
	eventually(t, "the new sidecar serves", serves(sidecar.PID()))

	s.stop()
	s.wait(t)
	// It is nobody's child: another service finds it as it is.
	again := d.run(t)
	c, ctx = again.client(t), again.as(t, tenantA, auth.RoleAdmin)
	if got, err := c.Get(ctx, k, config.Service{}); err != nil || string(got.Entry.Value) != `"1"` {
		t.Errorf("get by another service: %+v, %v", got, err)
	}
	eventually(t, "it is the same sidecar", serves(sidecar.PID()))
}
