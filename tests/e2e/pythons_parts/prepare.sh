#!/bin/sh
# What the suite `pythons` needs: PyPy, openssl, and a root that holds Debian's python3-minimal and no more of Python.
# Its packages are unpacked, not installed: nothing of them runs until the suite makes this its root.
set -eu
if [ "$(id -u)" -ne 0 ]; then
    exit 0                          # the suite says what is missing
fi
for program in pypy3 openssl; do
    command -v $program > /dev/null && continue
    sh "$(dirname "$0")/../packages.sh" pypy3 openssl
    break
done
root=build/pythons/minimal debs=build/pythons/debs
[ ! -e $root ] || exit 0

packages() {
    echo base-files                 # which has /lib64, where that is a link
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances python3-minimal | grep '^[a-z0-9]' | sort -u
}
download() {
    rm -rf $debs && mkdir -p $debs && (cd $debs && apt-get -q download $(packages)) && ls $debs/*.deb > /dev/null
}
unpack() {
    rm -rf $root.new && mkdir $root.new && for each in $debs/*.deb; do dpkg-deb --extract "$each" $root.new || return 1; done
}
echo "making $root"
{ download || { apt-get -q update && download; }; } && unpack && mv $root.new $root || echo 'it could not be made'
