#!/bin/sh
# Writes first values into a stack's stores: see `seed.sh -h` and docs/deploy.md.
set -eu
exec "$(dirname "$0")/run" seed "$@"
