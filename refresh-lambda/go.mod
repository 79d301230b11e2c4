module github.com/tagstore/tagstore/refresh-lambda

go 1.26.0

require github.com/tagstore/tagstore/core v0.0.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/text v0.42.0 // indirect
)

replace github.com/tagstore/tagstore/core => ../core
