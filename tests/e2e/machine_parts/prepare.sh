#!/bin/sh
# What the suite `machine` needs: some of Debian's packages, and the tree, which is made once.
set -eu
if [ "$(id -u)" -ne 0 ]; then
    exit 0                          # the suite says that it needs root
fi
here=$(dirname "$0")
for program in systemd-nspawn debootstrap mksquashfs unshare nsenter ip openssl; do
    command -v $program > /dev/null && continue
    sh "$here/../packages.sh" systemd-container debootstrap squashfs-tools util-linux iproute2 openssl
    break
done
# disks for units that fill them; without these, their cases are skipped
for program in mkfs.ext4 mkfs.xfs mkfs.btrfs; do
    PATH="$PATH:/usr/sbin:/sbin" command -v $program > /dev/null && continue
    sh "$here/../packages.sh" e2fsprogs xfsprogs btrfs-progs
    break
done
tree=build/machine/tree.squashfs
if [ ! -e $tree ] || [ "$here/tree.sh" -nt $tree ]; then
    echo "making $tree, for some minutes the first time"
    sh "$here/tree.sh" $tree || echo 'it could not be made'
fi
