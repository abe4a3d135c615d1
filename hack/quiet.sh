#!/bin/bash
# Shortens `go test -v` to a line for each test that ended, and everything of those that failed.
# Not awk: Debian's reads a pipe in large pieces, and minutes would pass without a word.
exec perl -ne 'BEGIN { $| = 1 } print unless /^=== (RUN|PAUSE|CONT|NAME)/ || /^ {5,}--- PASS/'
