package pluginhost

import (
	"os"
	"slices"
	"strings"
)

// awsPrefix is what the AWS SDKs' variables start with.
const awsPrefix = "AWS_"

// awsCredentials are the variables that are credentials or lead to them; an
// item that ends with '_' stands for all that start with it.
var awsCredentials = []string{
	"AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
	"AWS_CREDENTIAL_", "AWS_CREDENTIALS_", "AWS_BEARER_TOKEN_",
	"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_SSO_", "AWS_LOGIN_",
	"AWS_ROLE_", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_", "AWS_EC2_METADATA_",
}

// leadsToCredentials tells the variables that only a plugin with AWS gets.
func leadsToCredentials(name string) bool {
	return slices.ContainsFunc(awsCredentials, func(known string) bool {
		return name == known || strings.HasSuffix(known, "_") && strings.HasPrefix(name, known)
	})
}

// awsEnvironment returns the names of all variables of the AWS SDKs that are
// set here: those that lead to credentials, the region, endpoints and the rest.
func awsEnvironment() []string {
	var names []string
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, awsPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
