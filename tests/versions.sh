#!/usr/bin/env bash
# Run the fast suite in environments with other versions, which this script builds, and add a row for each to
# paper_notes/results/versions.md. A clone of the current commit runs.
#
#   tests/versions.sh [-d FOLDER] [-n WORKERS] [ENVIRONMENT ..] [-- PYTEST ARGUMENTS ..]
#
# ENVIRONMENT: ci, gpu, next, lowest; all without one. Environments are kept in FOLDER (default: ~/.cache/affdiv-versions)
# and built once. Needs python3.11, python3.12, git and package registries. Exit code 1 when a suite fails.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/affdiv-versions
workers=2
while getopts d:n: option; do
  case $option in
    d) folder=$OPTARG ;;
    n) workers=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
environments=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do environments+=("$1"); shift; done
[ $# -eq 0 ] || shift
[ ${#environments[@]} -gt 0 ] || environments=(ci gpu next lowest)

# Sets the Python of an environment, its pins if they are not constraints.txt, and the packages to remove.
describe() {
  python=python3.11 pins=() without=()
  case $1 in
    ci) ;;
    gpu) python=python3.12 pins=("torch==2.11.*" "triton==3.6.*" "numpy==2.5.*") without=(latex2mathml) ;;  # as on the GPU machine
    next) pins=("torch==2.14.*" "triton==3.8.*") ;;
    lowest) mapfile -t pins < <("$python" "$root/tests/lowest_versions.py" "$root/pyproject.toml") ;;
    *) echo "error: no environment is named '$1'; choose ci, gpu, next or lowest" >&2; exit 2 ;;
  esac
}

build() {  # NAME; apart from the pins, the newest compatible versions
  [ -e "$folder/$1/built" ] && return
  rm -rf "${folder:?}/$1"
  "$python" -m venv "$folder/$1"
  if [ "$1" = ci ]; then cp "$root/constraints.txt" "$folder/$1/pins.txt"; else printf '%s\n' "${pins[@]}" > "$folder/$1/pins.txt"; fi
  "$folder/$1/bin/pip" install -q -c "$folder/$1/pins.txt" -e "$folder/source[test]"
  [ ${#without[@]} -eq 0 ] || "$folder/$1/bin/pip" uninstall -q -y "${without[@]}"
  touch "$folder/$1/built"
}

for name in "${environments[@]}"; do describe "$name"; done  # a wrong name ends the run before anything is built
mkdir -p "$folder"
rm -rf "$folder/source"
git clone -q "$root" "$folder/source"
failed=0
for name in "${environments[@]}"; do
  describe "$name"
  echo "== $name"
  build "$name"
  (cd "$folder/source" && "$folder/$name/bin/python" -m pytest -q -n "$workers" --junitxml "$folder/$name.xml" "$@") || failed=1
  "$folder/$name/bin/python" "$root/tests/versions_row.py" "$name" "$folder/$name.xml" "$folder/source" "$root/paper_notes/results/versions.md" "$@"
done
exit $failed
