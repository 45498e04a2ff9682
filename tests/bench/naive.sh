#!/bin/sh
# naive.sh URL PUBLICKEY DIRECTORY: a minimal updater with curl, signify and sha256sum.
#
# The signed SHA256SUMS lists one file, `image`, which is downloaded if DIRECTORY has another one.
# There is no rollback protection, no resumed download, no fsync, no second key, no Version=.
set -eu
cd "$3"
curl -fsS -o SHA256SUMS "$1/SHA256SUMS" -o SHA256SUMS.sig "$1/SHA256SUMS.sig"
signify-openbsd -Vq -p "$2" -m SHA256SUMS
if [ -e image ] && sha256sum --status -c SHA256SUMS; then
    exit 0
fi
curl -fsS -o image "$1/image"
sha256sum --status -c SHA256SUMS
