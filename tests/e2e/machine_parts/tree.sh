#!/bin/sh
# Makes the minimal Debian that tests/e2e/machine.py boots, as one squashfs: tree.sh FILE
# The packages come from the archive that this machine's own apt uses. The tree is built in memory,
# in a mount namespace that the kernel removes when this script ends. FILE is complete or absent.
set -eu
RELEASE=bookworm
# cloud-init depends on virtual packages, which debootstrap does not know; python3-cffi-backend
# provides them
PACKAGES='systemd-sysv libpam-systemd dbus python3 cron cloud-init python3-cffi-backend openssl
    ca-certificates nginx-light openssh-server polkitd rsync faketime busybox-static make'
# for the how-tos in docs/
PACKAGES="$PACKAGES apache2 caddy curl dosfstools msmtp-mta squashfs-tools"

if [ "${2-}" != inside ]; then
    exec unshare --mount sh "$0" "$1" inside
fi
archive() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -v security | head -n 1
}
mirror=$(archive)
# apt names an archive only after it has downloaded its lists
[ -n "$mirror" ] || { apt-get -q update && mirror=$(archive); }
[ -n "$mirror" ] || { echo 'the sources of apt name no archive' >&2; exit 1; }
mkdir -p "$(dirname "$1")/debs"
debs=$(realpath "$(dirname "$1")/debs")
mount -t tmpfs -o size=2g,mode=755 tree /mnt
debootstrap --variant=minbase --cache-dir="$debs" --include="$(echo $PACKAGES | tr ' ' ,)" \
    "$RELEASE" /mnt "$mirror" > "$1.log" ||
    { tail -n 20 /mnt/debootstrap/debootstrap.log "$1.log" >&2; exit 1; }
# they would take the port of nginx; the how-to starts each of them
chroot /mnt systemctl --quiet disable apache2 caddy
chroot /mnt dpkg-query --show > /mnt/etc/packages
rm -rf /mnt/var/cache/apt/archives/*.deb /mnt/var/lib/apt/lists/* /mnt/etc/machine-id \
    /mnt/debootstrap
: > /mnt/etc/machine-id
mksquashfs /mnt "$1.new" -noappend -quiet -no-progress -no-xattrs \
    -comp zstd -Xcompression-level 3 -e usr/share/doc -e usr/share/man -e usr/share/locale
sync "$1.new"
mv "$1.new" "$1"
