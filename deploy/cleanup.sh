#!/bin/sh
# Removes the stack and all that it leaves: see `cleanup.sh -h` and docs/deploy.md.
set -eu
exec "$(dirname "$0")/run" cleanup "$@"
