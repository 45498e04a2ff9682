#!/bin/sh
# naive.sh URL PUBLICKEY DIRECTORY: the updater that one writes in an afternoon, with curl, signify and sha256sum.
#
# SHA256SUMS, which is signed, names one file, `image`. It is fetched where the one in DIRECTORY is another.
# No rollback protection, no resuming, nothing durable, no second key, no bounds.
set -eu
cd "$3"
curl -fsS -o SHA256SUMS "$1/SHA256SUMS" -o SHA256SUMS.sig "$1/SHA256SUMS.sig"
signify-openbsd -Vq -p "$2" -m SHA256SUMS
if [ -e image ] && sha256sum --status -c SHA256SUMS; then
    exit 0
fi
curl -fsS -o image "$1/image"
sha256sum --status -c SHA256SUMS
