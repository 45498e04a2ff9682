#!/bin/sh
# What the suite `pythons` needs: PyPy, openssl, and a root that holds Debian's python3-minimal and no more of Python.
# The packages are unpacked, not installed: nothing of them runs until the suite changes its root to there.
set -eu
if [ "$(id -u)" -ne 0 ]; then
    exit 0                          # the suite says what is missing
fi
for program in pypy3 openssl; do
    command -v $program > /dev/null && continue
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends pypy3 openssl || echo "no $program here"
    break
done
root=build/pythons/minimal
if [ ! -e $root ] && command -v apt-get dpkg-deb > /dev/null; then
    echo "making $root"
    rm -rf $root.new build/pythons/debs
    mkdir -p $root.new build/pythons/debs
    packages() {
        apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
            --no-enhances python3-minimal | grep '^[a-z0-9]' | sort -u
    }
    packages > /dev/null || apt-get -q update
    # shellcheck disable=SC2046
    (cd build/pythons/debs && { apt-get -q download $(packages) || { apt-get -q update && apt-get -q download $(packages); }; }) &&
        for each in build/pythons/debs/*.deb; do dpkg-deb --extract "$each" $root.new || exit 1; done &&
        mv $root.new $root || echo 'it could not be made'
fi
