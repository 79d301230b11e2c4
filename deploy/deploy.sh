#!/bin/sh
# Puts the stack into an account, or changes it: see `deploy.sh -h` and docs/deploy.md.
set -eu
exec "$(dirname "$0")/run" deploy "$@"
