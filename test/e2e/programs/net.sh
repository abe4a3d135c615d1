#!/bin/bash
# The process tree of the end-to-end tests: a shell whose children and grandchildren do the
# work. See programs_test.go for its steps.
PYTHON_PROGRAM=$(dirname "$0")/net.py
trap 'kill $(jobs -p) 2>/dev/null; exit 143' TERM

errno() {
  case "$1" in
    *'Connection refused'*) echo ECONNREFUSED ;;
    *'No route to host'*) echo EHOSTUNREACH ;;
    *'Network is unreachable'*) echo ENETUNREACH ;;
    *'Connection timed out'*) echo ETIMEDOUT ;;
    *'Name or service not known'* | *'No address associated'*) echo nxdomain ;;
    *) echo "$1" ;;
  esac
}

tcp() { # the shell's own connection, in a grandchild
  local out
  if out=$( (exec 3<>"/dev/tcp/$1/$2" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && tail -n 1 <&3) 2>&1); then
    echo "$out"
  else
    errno "$out"
  fi
}

exchange() { # a datagram is sent again, as it may be lost
  local end=124
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
    printf hello >&3 || return
    timeout 10 dd bs=64k count=1 status=none <&3 && return
    end=$?
    [ "$end" = 124 ] || break
  done
  return "$end"
}

udp() {
  local out
  if out=$( (exec 3<>"/dev/udp/$1/$2" && exchange) 2>&1); then
    echo "$out"
  else
    errno "$out"
  fi
}

udpto() { (python3 "$PYTHON_PROGRAM" udpto "$@" | cut -f 2) & wait; }

resolve() {
  local out
  out=$(getent ahosts "$1") || { echo nxdomain; return; }
  echo "$out" | cut -d ' ' -f 1 | sort -u | xargs
}

listen() { python3 "$PYTHON_PROGRAM" listen "$@" & wait; }

while [ $# -gt 0 ]; do
  case "$1" in resolve) n=2 ;; *) n=3 ;; esac
  words=("${@:1:n}")
  shift "$n"
  if [ "${words[0]}" = listen ]; then
    "${words[@]}"
  else
    result=$("${words[@]}")
    printf '%s\t%s\n' "${words[*]}" "$result"
  fi
done
