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

for word in "${REST[@]}"; do
  if [[ "$word" =~ ^(tests|benchmarks|examples)(/|$) || "$word" =~ ^-[mk] ]]; then
    # Two processes: TensorFlow alone fills one core badly. Files stay whole, so module fixtures do too.
    # What -m or -k choose is little, and starting a process for each part below would be most of it.
    run "$VENV/bin/python" -m pytest -n 2 --dist loadfile "${REST[@]}"
    exit
  fi
done

# TensorFlow keeps what it compiled until its process ends: 9 GB after all tests. So each part has a
# process of its own, of at most 3 GB. Two run at a time, the longest first. A process costs 5 s.
PARTS=(
  "tests/beam"
  "tests/data tests/pages tests/evaluation tests/monitoring tests/browser"
  "tests/weights benchmarks/tests/faults"
  "tests/tpu_compile tests/field"
  "tests/training/test_[l-z]*.py"
  "tests/test_[g-s]*.py"
  "tests/training/test_h*.py tests/losses"
  "examples"
  "benchmarks/tests/test_*.py"
  "tests/test_[a-f]*.py tests/test_t[a-r]*.py"
  "tests/training/test_[a-g]*.py"
  "tests/selection/test_[j-z]*.py"
  "tests/models tests/runtime tests/serving tests/preflight"
  "tests/test_t[s-z]*.py"
  "tests/training/test_j*.py"
  "tests/selection/test_[a-i]*.py"
)

# The layer of launch/beam_test.sh. Without it no test is chosen there, unless $VENV itself has Beam.
python_of_beam="$VENV/bin/python"
has_beam "$VENV" && python_of_beam="$BEAM_VENV/bin/python"

# Shows what a part printed when it has ended, and keeps its exit code.
run_part() {
  local code=0 out python="$VENV/bin/python"
  [[ "${*: -1}" != tests/beam ]] || python="$python_of_beam"
  out="$(mktemp "$results/XXXXXX.out")"
  run "$python" -m pytest "$@" >"$out" 2>&1 || code=$?
  printf '%s\n' "$code" >"${out%.out}.code"
  cat "$out"
  # 2: Ctrl-C or a file that cannot be read. xargs then starts no other part.
  ((code != 2)) || exit 255
}
results="$(mktemp -d)"
trap 'rm -r "$results"' EXIT
export -f run_part run show
export VENV DRY_RUN results python_of_beam

# xargs: what a shell starts in the background does not hear Ctrl-C.
at_a_time=2 lost=0
[[ "$DRY_RUN" != true ]] || at_a_time=1
# shellcheck disable=SC2086 # a part is several paths
# shellcheck disable=SC2016 # for the inner shell
for part in "${PARTS[@]}"; do echo $part; done |
  xargs -P "$at_a_time" -L 1 bash -euc 'run_part "$@"' run_part "${REST[@]}" || lost=$?

# The worst of all; 5, no test was chosen, only where all say so. A part that was killed has no code.
sort -n "$results"/*.code | awk -v lost="$lost" '
  $1 != 5 { worst = $1; found = 1 }
  END { exit worst ? worst : lost ? lost : found ? 0 : 5 }
'
