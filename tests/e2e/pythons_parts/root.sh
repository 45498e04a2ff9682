#!/bin/sh
# Makes a root of Debian in build/pythons: root.sh NAME RELEASE ARCHITECTURE PACKAGES
# The archive's address is the one that this machine's own apt uses. The root is whole or absent.
# It is made again if this file or the arguments have changed, and after 30 days, because sid
# changes; if that fails, the old one stays.
#
# Packages of an architecture that this machine cannot run are unpacked, not installed. In the other
# roots the openssl command is in /opt/openssl, off the PATH: for the tests of https alone.
set -eu
name=$1 release=$2 architecture=$3 packages=$4
root=build/pythons/$name debs=build/pythons/debs
recipe="$release $architecture $packages $(cksum < "$0")"
if [ "${5-}" != inside ]; then
    if [ "$(cat "$root/var/log/recipe" 2> /dev/null)" = "$recipe" ] &&
            [ -z "$(find "$root/var/log/recipe" -mtime +30)" ]; then
        exit 0
    fi
    echo "making $root"
    # what debootstrap mounts and starts ends with this
    exec unshare --mount --pid --fork --kill-child --mount-proc sh "$0" "$@" inside
fi

archive() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -v security | head -n 1
}
bootstrap() {
    debootstrap --variant=minbase --arch="$architecture" --include="$packages" \
        --cache-dir="$(realpath $debs)" "$@" "$release" "$root.new" "$mirror" > "$root.log" 2>&1 ||
        { tail -n 20 "$root.log" >&2; exit 1; }
}
mirror=$(archive)
# apt names only the archives whose lists it has
[ -n "$mirror" ] || { apt-get -q update && mirror=$(archive); }
[ -n "$mirror" ] || { echo "apt's sources name no archive" >&2; exit 1; }
mkdir -p $debs
rm -rf "$root.new" "$root.old"
case $(dpkg --print-architecture)/$architecture in
amd64/i386 | "$architecture/$architecture")
    bootstrap
    case ,$packages, in *,openssl,*)
        mkdir "$root.new/opt/openssl"
        mv "$root.new/usr/bin/openssl" "$root.new/etc/ssl/openssl.cnf" "$root.new/opt/openssl/" ;;
    esac ;;
*)
    bootstrap --download-only
    for each in "$root.new"/var/cache/apt/archives/*.deb; do
        dpkg-deb --extract "$each" "$root.new"
    done ;;
esac
rm -rf "$root.new/debootstrap" "$root.new"/var/cache/apt/archives/*.deb \
    "$root.new"/var/lib/apt/lists/*
echo "$recipe" > "$root.new/var/log/recipe"
[ ! -e "$root" ] || mv "$root" "$root.old"
mv "$root.new" "$root"
rm -rf "$root.old"
