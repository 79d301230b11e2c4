package cloudformation

import "embed"

// Templates are the templates of this version. main.yaml nests the others by
// their names here; artifacts.yaml comes before it.
//
//go:embed *.yaml
var Templates embed.FS
