#!/bin/sh
# Goes back to an earlier release, or version of a key: see `rollback.sh -h` and docs/deploy.md.
set -eu
exec "$(dirname "$0")/run" rollback "$@"
