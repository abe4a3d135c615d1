#!/bin/sh
# curl as a program of the end-to-end tests. See programs_test.go for its steps: tcp, unix, and
# resolve, which shows the addresses that curl tries on its way to the HTTP server of a name; on a
# machine that is too busy to look it up within a second it is given more time.

errno() {
  case "$1" in
  *'Could not resolve host'*) echo nxdomain ;;
  *'Connection refused'*) echo ECONNREFUSED ;;
  *'No route to host'*) echo EHOSTUNREACH ;;
  *'Network is unreachable'*) echo ENETUNREACH ;;
  *'Connection timed out'*) echo ETIMEDOUT ;;
  *) echo "$1" | xargs ;;
  esac
}

url() {
  case "$1" in
  *:*) echo "http://[$1]:$2/" ;;
  *) echo "http://$1:$2/" ;;
  esac
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
while [ $# -gt 0 ]; do
  case "$1" in
  tcp)
    words="$1 $2 $3"
    result=$(curl -svf --noproxy '*' --max-time 240 "$(url "$2" "$3")" 2>"$log") || result=$(errno "$(cat "$log")")
    shift 3
    ;;
  unix)
    words="$1 $2"
    case "$2" in
    @*) flag=--abstract-unix-socket socket=${2#@} ;;
    *) flag=--unix-socket socket=$2 ;;
    esac
    result=$(curl -svf "$flag" "$socket" --max-time 240 http://unix/ 2>"$log") || result=$(errno "$(cat "$log")")
    shift 2
    ;;
  resolve)
    words="$1 $2"
    for limit in 1 10 60; do
      tried=$(curl -sv --noproxy '*' --connect-timeout "$limit" "$(url "$2" 8080)" 2>&1 >/dev/null)
      case "$tried" in
      *Trying* | *'Could not resolve host'*) break ;;
      esac
    done
    case "$tried" in
    *Trying*) result=$(echo "$tried" | sed -n 's/^\*  *Trying \(.*\):8080\.\.\.*/\1/p' | tr -d '[]' | sort -u | xargs) ;;
    *) result=$(errno "$tried") ;;
    esac
    shift 2
    ;;
  esac
  printf '%s\t%s\n' "$words" "$result"
done
