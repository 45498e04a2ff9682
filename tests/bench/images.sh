#!/usr/bin/env bash
# images.sh FOLDER: makes images of real updates from Debian's archive, once. It needs root.
#
#   FOLDER/img/old.FORMAT    the last point release of Debian bookworm, with a few common programs
#   FOLDER/img/small.FORMAT  the same with only the security update of openssl
#   FOLDER/img/big.FORMAT    the same with all updates that were available when this ran
#
# The trees and the lists of updated packages stay in FOLDER/trees. FORMATS selects formats.
set -eu
folder=$(realpath "${1:?usage: images.sh FOLDER}")
: "${FORMATS:=sq-gzip sq-zstd sq-xz erofs erofs-lz4 ext4 tar tar.gz zip}"
packages=ca-certificates,openssl,python3,nginx-light,openssh-client,curl,sqlite3,gnupg
packages=$packages,libxml2,libgnutls30,libexpat1
# fixed, like the hash seed of ext4, as otherwise every block differs between two builds
uuid=6ba7b810-9dad-11d1-80b4-00c04fd430c8
trees=$folder/trees
img=$folder/img

# Print the address of a suite of the archive, from the sources of this machine's apt.
archive() {
    apt-get indextargets 'Created-By: Packages' --format '$(REPO_URI) $(RELEASE)' |
        awk -v suite="$1" '$2 == suite { print $1; exit }'
}

# Install bookworm into trees/old, and copy it.
install_trees() {
    local main=$1 security=$2
    rm -rf "$trees" && mkdir -p "$trees" "$folder/debs"
    debootstrap --cache-dir="$folder/debs" --variant=minbase --include="$packages" bookworm \
        "$trees/old" "$main"
    # no package may start a service in the chroot
    printf '#!/bin/sh\nexit 101\n' > "$trees/old/usr/sbin/policy-rc.d"
    chmod 755 "$trees/old/usr/sbin/policy-rc.d"
    printf 'deb %s bookworm main\n' "$main" > "$trees/old/etc/apt/sources.list"
    printf 'deb %s bookworm-security main\n' "$security" >> "$trees/old/etc/apt/sources.list"
    cp /etc/resolv.conf "$trees/old/etc/resolv.conf"
    cp -a "$trees/old" "$trees/small"
    cp -a "$trees/old" "$trees/big"
}

# Update trees/small and trees/big, and list the updated packages.
update_trees() {
    local tree
    export DEBIAN_FRONTEND=noninteractive
    for tree in small big; do
        chroot "$trees/$tree" apt-get -q update
    done
    chroot "$trees/small" apt-get -qy install --only-upgrade openssl libssl3
    chroot "$trees/big" apt-get -qy dist-upgrade
    for tree in old small big; do
        chroot "$trees/$tree" dpkg-query -W > "$trees/$tree.packages"
    done
    for tree in small big; do
        diff "$trees/old.packages" "$trees/$tree.packages" | sed -n 's/^> //p' \
            > "$trees/$tree.updated"
    done
}

# Remove what an image does not need, and limit all times to EPOCH: clean_tree TREE EPOCH
clean_tree() {
    local tree=$1 epoch=$2
    (cd "$trees/$tree" && rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* \
        var/cache/ldconfig/aux-cache var/cache/debconf/*-old var/lib/dpkg/*-old etc/machine-id \
        etc/resolv.conf usr/sbin/policy-rc.d usr/share/doc/* usr/share/man/* usr/share/info/* \
        usr/share/locale/* tmp/* dev/* debootstrap)
    find "$trees/$tree" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
}

# Print a tar of a tree without what differs between two builds: make_tar TREE
make_tar() {
    local headers=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime
    tar --sort=name --numeric-owner --format=posix --pax-option=$headers -C "$1" -cf - .
}

# Make one image: make_image TREE FORMAT FILE EPOCH
make_image() {
    local tree=$trees/$1 file=$3 epoch=$4 size
    rm -f "$file"
    case $2 in
        sq-*)
            mksquashfs "$tree" "$file" -noappend -no-progress -quiet -mkfs-time "$epoch" \
                -comp "${2#sq-}" ;;
        erofs)
            mkfs.erofs -T"$epoch" -U$uuid "$file" "$tree" ;;
        erofs-lz4)
            mkfs.erofs -zlz4hc -T"$epoch" -U$uuid "$file" "$tree" ;;
        ext4)
            size=$(du -sm "$trees/big" | awk '{ print 32 * (int($1 * 1.3 / 32) + 1) }')
            SOURCE_DATE_EPOCH=$epoch mke2fs -q -t ext4 -b 4096 -U $uuid \
                -E hash_seed=$uuid,lazy_itable_init=0 -d "$tree" "$file" "${size}M" ;;
        tar)
            make_tar "$tree" > "$file" ;;
        tar.gz)
            # GNU gzip has another compressor, whose streams cannot be rebuilt
            make_tar "$tree" | python3 -c 'import gzip, shutil, sys
with gzip.GzipFile("", "wb", 6, sys.stdout.buffer, 0) as packed:
    shutil.copyfileobj(sys.stdin.buffer, packed)' > "$file" ;;
        zip)
            python3 -c 'import os, sys, zipfile
with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED) as packed:
    for folder, folders, names in os.walk(sys.argv[1]):
        folders.sort()
        for path in (os.path.join(folder, name) for name in sorted(names)):
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as stream:
                    entry = zipfile.ZipInfo(os.path.relpath(path, sys.argv[1]))
                    packed.writestr(entry, stream.read(), zipfile.ZIP_DEFLATED)' "$tree" "$file" ;;
        *)
            echo "images.sh: invalid format: '$2'" >&2
            return 1 ;;
    esac > /dev/null
}

if [ ! -e "$trees/made" ]; then
    # the archive of this machine's own release, which has bookworm, too
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    main=$(archive "$own") security=$(archive "$own-security")
    [ -n "$main" ] && [ -n "$security" ] ||
        { echo "images.sh: the sources of apt have no $own and $own-security" >&2; exit 1; }
    now=$(date +%s)
    install_trees "$main" "$security"
    update_trees
    clean_tree old $((now - 7 * 86400))
    clean_tree small "$now"
    clean_tree big "$now"
    echo "$now" > "$trees/made"
fi

now=$(cat "$trees/made")
mkdir -p "$img"
for format in $FORMATS; do
    for tree in old small big; do
        [ -e "$img/$tree.$format" ] && continue
        epoch=$now
        [ $tree = old ] && epoch=$((now - 7 * 86400))
        make_image $tree "$format" "$img/$tree.$format.new" "$epoch"
        mv "$img/$tree.$format.new" "$img/$tree.$format"
    done
done
