#!/bin/sh
# Installs packages of Debian, one call after another, and starts none of the services that come with them:
# packages.sh PACKAGE... What cannot be had is left out, and the suites that need it say so.
set -eu
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "lacking of Debian's packages, which root could install: $*"
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
exec 9< /var/lib/dpkg
flock 9
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT PIPE TERM
    printf '#!/bin/sh\nexit 101\n' > $policy        # no service is to be started
    chmod 755 $policy
fi
install() {
    apt-get install -qy --no-install-recommends -o DPkg::Lock::Timeout=600 "$@" 9<&-
}
apt-get update -q || echo "apt's lists of packages stay as they are"
install "$@" || for each; do
    install "$each" || echo "there is no $each to be had"
done
