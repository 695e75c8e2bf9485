#!/usr/bin/env bash
# Installs the package and runs the whole path on the shipped data: a small trained model is imported,
# tuned with JEST and with uniform sampling, evaluated, exported and searched with; a page compares.
#
#   ./launch/quickstart.sh [--dry-run] [--venv DIR] [ARGUMENTS]
#
# --dry-run   print every command, run none
# --venv DIR  use this environment (made when missing); default: the active one, else .venv
#
# Arguments go to `python -m examples.emoji.quickstart`, which runs in the checkout: relative paths start
# there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse_common "$@"
choose_venv
cd "$ROOT"
install_package ""
run "$VENV/bin/python" -m examples.emoji.quickstart "${REST[@]}"
