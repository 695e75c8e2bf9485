#!/usr/bin/env bash
# Installs the package with its development tools, then runs the linter and the tests.
#
#   ./launch/test.sh [--dry-run] [--venv DIR] [PYTEST ARGUMENTS]
#
# --dry-run   print every command, run none
# --venv DIR  use this environment (made when missing); default: the active one, else .venv
#
# Arguments go to pytest, e.g. ./launch/test.sh tests/selection -k joint
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse_common "$@"
choose_venv
cd "$ROOT"
install_package dev
run "$VENV/bin/python" -m pip check
run "$VENV/bin/python" -m ruff check .
run "$VENV/bin/python" -m ruff format --check .

# Two processes: TensorFlow alone fills one core badly. Files stay whole, so module fixtures do too.
tests() {
  run "$VENV/bin/python" -m pytest -n 2 --dist loadfile "$@"
}

# TensorFlow keeps what it compiled until its process ends: 9 GB after all tests. So they run part by
# part, each in processes of its own.
PARTS=(
  "tests/selection tests/losses tests/models tests/runtime"
  "tests/training"
  "tests/data tests/field tests/evaluation tests/pages"
  "tests/monitoring tests/serving tests/weights tests/preflight tests/browser"
  "tests/tpu_compile tests/beam tests/test_*.py"
  "benchmarks/tests examples"
)

for word in "${REST[@]}"; do
  if [[ "$word" =~ ^(tests|benchmarks|examples)(/|$) ]]; then
    tests "${REST[@]}"
    exit
  fi
done

worst=5 # pytest's code for: no test was chosen
for part in "${PARTS[@]}"; do
  code=0
  # shellcheck disable=SC2086 # a part is several paths
  tests $part "${REST[@]}" || code=$?
  ((code != 2 && code < 128)) || exit "$code" # Ctrl-C
  if ((code != 5)) && ((code || worst == 5)); then
    worst=$code
  fi
done
exit "$worst"
