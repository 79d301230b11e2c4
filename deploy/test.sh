#!/bin/sh
# Asks a running system as two tenants: see `test.sh -h` and docs/deploy.md.
set -eu
here=$(dirname "$0")
# The system of `make run-aws-local` is on emulators; so are its tables.
if [ "${1:-}" = --local ] && [ -z "${AWS_ENDPOINT_URL_DYNAMODB:-}" ]; then
  variables=$("$here/../examples/aws-local/env")
  eval "$variables"
fi
exec "$here/run" test "$@"
