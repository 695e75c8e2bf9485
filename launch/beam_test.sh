#!/usr/bin/env bash
# Makes an environment with Apache Beam over the package's own, and runs the tests of --runner in it.
# Beam needs older protobuf, pyarrow and Pillow than constraints.txt has. Safe to run again.
#
#   ./launch/beam_test.sh [--dry-run] [--venv DIR] [--install | PYTEST ARGUMENTS]
#
# --dry-run   print every command, run none
# --install   run no test: launch/test.sh runs them among the others, once the environment is there
# --venv DIR  the package's own environment; default: the active one, else .venv
#
# The layer is .venv-beam of this checkout, 300 MB.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

parse_common "$@"
choose_venv
cd "$ROOT"
install_package dev
base="$VENV"
VENV="$BEAM_VENV"

if has_beam "$base"; then
  printf 'Environment %s is up to date.\n' "$VENV"
else
  PYTHON="$base/bin/python" make_venv
  run "$VENV/bin/python" -c 'import pathlib, sys, sysconfig as s
there = s.get_path("purelib", vars={"base": sys.argv[1]})
pathlib.Path(s.get_path("purelib"), "base.pth").write_text(f"import site; site.addsitedir({there!r})")
' "$base"
  run "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile --editable "${ROOT}[beam]"
  # Neither git nor the linter shall look inside.
  run sh -c 'echo "*" >"$1/.gitignore"' sh "$VENV"
  [[ "$DRY_RUN" == true ]] || beam_fingerprint "$base" >"$VENV/installed.txt"
fi
[[ "${REST[*]}" == --install ]] || run "$VENV/bin/python" -m pytest tests/beam "${REST[@]}"
