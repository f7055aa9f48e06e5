#!/bin/bash
# Runs every fuzz target of the module, one after the other, for the time given.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-1m}
grep -rhoE --include='*_test.go' '^func (Fuzz[A-Za-z0-9_]+)' . >/dev/null || { echo "no fuzz targets"; exit 1; }
grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u | while read -r target; do
		echo "== $dir $target"
		go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x
	done
done
