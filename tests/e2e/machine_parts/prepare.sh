#!/bin/sh
# Installs the packages of Debian that the suite machine needs, and makes its tree once.
set -eu
if [ "$(id -u)" -ne 0 ]; then
    exit 0                          # the suite reports that it needs root
fi
here=$(dirname "$0")
for program in systemd-nspawn debootstrap mksquashfs unshare nsenter ip openssl; do
    command -v $program > /dev/null && continue
    sh "$here/../packages.sh" systemd-container debootstrap squashfs-tools util-linux iproute2 \
        openssl
    break
done
# for the cases with a full disk, which are skipped without these
for program in mkfs.ext4 mkfs.xfs mkfs.btrfs; do
    PATH="$PATH:/usr/sbin:/sbin" command -v $program > /dev/null && continue
    sh "$here/../packages.sh" e2fsprogs xfsprogs btrfs-progs
    break
done
tree=build/machine/tree.squashfs
if [ ! -e $tree ] || [ "$here/tree.sh" -nt $tree ]; then
    echo "making $tree, which takes some minutes the first time"
    sh "$here/tree.sh" $tree || echo "cannot make $tree"
fi
