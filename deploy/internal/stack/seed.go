package stack

import "strings"

// SeedManifest is a manifest of the stores of a stack, by which first values are
// written as an operator does: with the operator's own credentials, so that it names
// no role for tenants.
func (d *Deployed) SeedManifest(p *Parameters) string {
	var b strings.Builder
	b.WriteString(`# Written by deploy/seed.sh. The service has a signed manifest of its own.
version: 1
backends:
  tenants:
    plugin: ./plugins/tagstore-plugin-dynamodb
    aws: true
    options: { table: ` + d.Table + `, key_prefix: tenant_config_ }
  params:
    plugin: ./plugins/tagstore-plugin-ssm
    aws: true
    options: { path: "` + d.Output("ParameterRoot") + `/{tenant}/{service}/{name}", key_prefix: param_config_ }
`)
	bucket := d.Output("ConfigBucket")
	if bucket != "" {
		b.WriteString(`  blobs:
    plugin: ./plugins/tagstore-plugin-s3
    aws: true
    options: { bucket: ` + bucket + `, path: "config/{tenant}/{service}/{name}", key_prefix: blob_config_ }
`)
	}
	b.WriteString(`  secrets:
    plugin: ./plugins/tagstore-plugin-secretsmanager
    aws: true
    options: { path: "` + d.Output("SecretRoot") + `/{tenant}/{service}/{name}", key_prefix: secret_config_, kms_key_id: alias/` + p.Name() + `-data }
routes:
  - { prefix: tenant_config_, backend: tenants, layers: ["{tenant}/{service}", "{tenant}"] }
  - { prefix: param_config_, backend: params, layers: ["{tenant}/{service}", "{tenant}"] }
  - { prefix: secret_config_, backend: secrets, layers: ["{tenant}/{service}", "{tenant}"] }
`)
	if bucket != "" {
		b.WriteString("  - { prefix: blob_config_, backend: blobs, layers: [\"{tenant}\"] }\n")
	}
	return b.String()
}
