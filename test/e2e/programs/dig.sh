#!/bin/sh
# dig as a program of the end-to-end tests: "dig TYPE NAME" prints the status and the records.
while [ $# -gt 0 ]; do
  words="$1 $2 $3"
  answer=$(dig +time=30 +tries=4 +nocmd +noquestion +nostats +noauthority +noadditional "$2" "$3" 2>&1)
  status=$(echo "$answer" | sed -n 's/.*status: \([A-Z]*\),.*/\1/p')
  records=$(echo "$answer" | grep -v '^;' | sed '/^$/d' | tr -s '\t ' ' ' | cut -d ' ' -f 4- | sort | paste -s -d '|')
  printf '%s\t%s %s\n' "$words" "${status:-$answer}" "$records"
  shift 3
done
