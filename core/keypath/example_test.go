package keypath_test

import (
	"fmt"

	"github.com/tagstore/tagstore/core/config"
	"github.com/tagstore/tagstore/core/keypath"
)

func ExampleTemplate_Path() {
	t, err := keypath.Parse(keypath.Options{Template: "/config-service/{tenant}/{service}/{name}", KeyPrefix: "param_config_"})
	if err != nil {
		fmt.Println(err)
		return
	}
	tenant, _ := config.ParseTenant("acme-corp")
	service, _ := config.ParseService("api")
	key, _ := config.ParseKey("param_config_endpoint")

	path, _ := t.Path(config.ID{Tenant: tenant, Service: service, Key: key})
	fmt.Println(path)
	path, _ = t.Path(config.ID{Tenant: tenant, Key: key})
	fmt.Println(path)

	id, ok := t.ID("/config-service/acme-corp/api/endpoint")
	fmt.Println(id.Tenant, id.Service, id.Key, ok)
	// Output:
	// /config-service/acme-corp/api/endpoint
	// /config-service/acme-corp/endpoint
	// acme-corp api param_config_endpoint true
}
