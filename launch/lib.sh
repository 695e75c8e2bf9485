# shellcheck shell=bash
# Shared by the scripts beside it: options, dry run, and one Python environment for all of them.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DRY_RUN=false
VENV=""
# What is left of the arguments for the calling script.
REST=()

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints a command as it could be typed.
show() {
  local word line="+"
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    line+=" $word"
  done
  printf '%s\n' "$line"
}

# Prints a command, then runs it, unless this is a dry run.
run() {
  show "$@"
  [[ "$DRY_RUN" == true ]] || "$@"
}

# Prints the comment at the head of the calling script as its help.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
}

# Takes --dry-run, --venv DIR and --help; leaves all else, and what follows `--`, in REST.
parse_common() {
  while (($#)); do
    case "$1" in
      --dry-run) DRY_RUN=true ;;
      --venv)
        (($# > 1)) || fail "--venv needs a folder."
        VENV="$2"
        shift
        ;;
      --venv=*) VENV="${1#*=}" ;;
      --help | -h)
        usage
        exit 0
        ;;
      --)
        shift
        REST+=("$@")
        return
        ;;
      *) REST+=("$1") ;;
    esac
    shift
  done
}

# parse_options VALUES SWITCHES ARGUMENTS…: `--name VALUE` sets $name for each of the words in VALUES,
# `--name` sets $name to true for those in SWITCHES, besides --dry-run and --help. What follows `--`
# is left in REST.
parse_options() {
  local with_value=" $1 " switches=" $2 " option
  shift 2
  while (($#)); do
    option="${1#--}"
    case "$1" in
      --dry-run) DRY_RUN=true ;;
      --help | -h)
        usage
        exit 0
        ;;
      --)
        shift
        REST=("$@")
        return
        ;;
      --?*)
        if [[ "$switches" == *" $option "* ]]; then
          printf -v "$option" true
        elif [[ "$with_value" == *" ${option%%=*} "* && "$option" == *=* ]]; then
          printf -v "${option%%=*}" '%s' "${option#*=}"
        elif [[ "$with_value" == *" $option "* ]]; then
          (($# > 1)) || fail "$1 needs a value."
          printf -v "$option" '%s' "$2"
          shift
        else
          fail "unknown option $1; see --help. What shall be passed on comes after --."
        fi
        ;;
      *) fail "unexpected argument $1; see --help. What shall be passed on comes after --." ;;
    esac
    shift
  done
}

# A Python that the package supports: $PYTHON, or the first of the usual names.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
      2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 found on PATH. Install one, or name it: PYTHON=/path/to/python3.11"
}

# The environment to use: --venv, else the active one, else .venv of this checkout.
choose_venv() {
  VENV="${VENV:-${VIRTUAL_ENV:-$ROOT/.venv}}"
  [[ "$VENV" == /* ]] || VENV="$PWD/$VENV"
}

make_venv() {
  # An interrupted first run may have left Python without pip; making it again completes it.
  "$VENV/bin/python" -m pip --version &>/dev/null && return
  local python
  python="$(find_python)"
  if ! run "$python" -m venv "$VENV"; then
    # Debian ships Python without ensurepip; its pip can install a pip into the environment.
    run "$python" -m venv --clear --without-pip "$VENV"
    run "$python" -m pip --python "$VENV/bin/python" install pip
  fi
}

# What an installation depends on: this checkout's place and its lists of dependencies.
install_fingerprint() {
  {
    printf '%s\n' "$ROOT"
    cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$ROOT/constraints.txt"
  } | cksum
}

# install_package EXTRAS: installs this checkout with the extras, e.g. "dev", once per fingerprint.
install_package() {
  local extras="$1" stamp fingerprint
  stamp="$VENV/.jest_tf-${extras:-base}.installed"
  fingerprint="$(install_fingerprint)"
  if [[ -x "$VENV/bin/python" && -f "$stamp" && "$(<"$stamp")" == "$fingerprint" ]]; then
    printf 'Environment %s is up to date.\n' "$VENV"
    return
  fi
  make_venv
  # Of 15,000 files a third is ever imported: each is compiled when it first is.
  run "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile \
    --constraint "$ROOT/constraints.txt" --editable "$ROOT${extras:+[$extras]}"
  if [[ "$DRY_RUN" != true ]]; then
    printf '%s\n' "$fingerprint" >"$stamp"
    # The development extra holds everything that the bare package needs.
    [[ "$extras" != dev ]] || printf '%s\n' "$fingerprint" >"$VENV/.jest_tf-base.installed"
  fi
}

# The layer with Apache Beam that launch/beam_test.sh makes over another environment.
BEAM_VENV="$ROOT/.venv-beam"

beam_fingerprint() { # of the layer over the environment $1
  printf '%s %s\n' "$(install_fingerprint)" "$1"
}

# Whether that layer lies over the environment $1 and is up to date.
has_beam() {
  local stamp="$BEAM_VENV/installed.txt"
  [[ -x "$BEAM_VENV/bin/python" && -f "$stamp" && "$(<"$stamp")" == "$(beam_fingerprint "$1")" ]]
}
