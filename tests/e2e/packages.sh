#!/bin/sh
# Installs packages of Debian, without starting their services: packages.sh PACKAGE...
# Only one call runs at a time. Packages that apt cannot install are left out, and the suites that
# need them report this.
set -eu
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "packages of Debian that only root can install: $*"
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
exec 9< /var/lib/dpkg
flock 9
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT PIPE TERM
    printf '#!/bin/sh\nexit 101\n' > $policy        # starts no service
    chmod 755 $policy
fi
install() {
    apt-get install -qy --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" 9<&-
}
apt-get update -q || echo "apt cannot update its lists of packages"
install "$@" || for each; do
    install "$each" || echo "apt cannot install $each"
done
