#!/bin/bash
# Installs what the tests use: the programs that are run through a session, and the parts of
# the test cluster that Debian and Ubuntu have. Does nothing when all of it is there.
set -euo pipefail

packages=(
  # the test cluster's node
  containerd runc containernetworking-plugins iptables nftables conntrack iproute2 util-linux procps kmod
  # programs that sessions are tried with, and compilers for more of them
  gcc libc6-dev musl-tools python3 nodejs default-jdk-headless curl bind9-dnsutils busybox-static perl-base
  # real servers for the protocol tests, and client libraries (PostgreSQL's server is made an image of, and not started here)
  postgresql redis-tools python3-psycopg2 python3-redis node-pg
  # debuggers; the others are modules of hack/debuggers, and npm's nodemon where there is npm
  gdb python3-debugpy
)

# A program that is installed in another way counts: only what is missing is asked for.
have() {
  case $1 in
    nodejs) command -v node ;;
    python3) command -v python3 ;;
    default-jdk-headless) command -v javac ;;
    gdb) command -v gdb ;;
    postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' ;;
    node-pg) [ -d /usr/share/nodejs/pg ] || command -v npm ;; # npm gets the library when a test needs it
    *) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
  esac >/dev/null
}

missing=()
for p in "${packages[@]}"; do have "$p" || missing+=("$p"); done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "hack/deps.sh: this is no Debian or Ubuntu; install by hand: ${missing[*]}" >&2
  exit 1
fi
sudo=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "hack/deps.sh: run as root, or install sudo, to get: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
echo "installing ${missing[*]}"
case " ${missing[*]} " in *" postgresql "*)
  # Without this, Debian's package makes a database and starts its server.
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    "${sudo[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi ;;
esac
"${sudo[@]}" apt-get update -qq
# Releases before Debian 12 do not have this one; its test is left out there.
if ! apt-cache show python3-debugpy >/dev/null 2>&1; then
  known=()
  for p in "${missing[@]}"; do [ "$p" = python3-debugpy ] || known+=("$p"); done
  missing=("${known[@]}")
  [ ${#missing[@]} -gt 0 ] || exit 0
fi
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
