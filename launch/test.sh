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
run "$VENV/bin/python" -m pytest -n 2 --dist loadfile "${REST[@]}"
