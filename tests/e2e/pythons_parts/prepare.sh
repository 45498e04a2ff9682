#!/bin/sh
# Installs what the suite pythons needs: PyPy, openssl, an emulator, and the roots of root.sh.
# In a sample (PROVE_SECONDS) the roots may take five minutes; the next run makes the missing ones.
set -eu
if [ "$(id -u)" -ne 0 ]; then
    exit 0                          # the suite reports what is missing
fi
here=$(dirname "$0")
for program in pypy3 openssl debootstrap qemu-s390x-static; do
    command -v $program > /dev/null && continue
    sh "$here/../packages.sh" pypy3 openssl debootstrap qemu-user-static || true
    break
done
mkdir -p build/pythons
exec 9< build/pythons
flock -w 60 9 || { echo 'another run in this checkout uses the roots'; exit 0; }
ends=$(($(date +%s) + 300))

make_root() {
    if [ -z "${PROVE_SECONDS-}" ]; then
        sh "$here/root.sh" "$@"
    else
        timeout -s KILL $((ends > $(date +%s) ? ends - $(date +%s) : 1)) sh "$here/root.sh" "$@"
    fi || echo "cannot make build/pythons/$1"
}
native=$(dpkg --print-architecture)
make_root minimal bookworm "$native" python3-minimal,make
make_root sid sid "$native" python3,make,openssl
make_root bookworm bookworm "$native" python3,make,openssl
[ "$native" != amd64 ] || make_root i386 bookworm i386 python3,make,openssl
make_root trixie trixie "$native" python3,make,openssl
make_root s390x bookworm s390x python3
