#!/bin/bash
# Shortens `go test -v` to a line for each test that ended, and everything of those that failed.
exec awk '
  /^=== (RUN|PAUSE|CONT|NAME)/ { next }
  /^ *--- PASS/ { if ($0 !~ /^     /) { print; fflush() } next }
  { print; fflush() }
'
