#!/usr/bin/env bash
# Resolve everything together, then each role within that resolution: one environment can hold them all, and no role disagrees with another.
# `lock.sh --upgrade` takes the newest versions that fit.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    local target="$1"
    shift
    .venv/bin/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
        --override requirements/overrides.txt pyproject.toml -o "requirements/$target.txt" "$@"
}
compile all --all-extras "$@"
for role in gateway spark training airflow; do
    compile "$role" --extra "$role" --constraint requirements/all.txt
done
# what tensorflow[and-cuda] brings beside tensorflow
echo "tensorflow[and-cuda]" | .venv/bin/python -m uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
    --constraint requirements/all.txt --override requirements/overrides.txt - | awk '/^[a-z]/ { of_nvidia = /^nvidia-/ } of_nvidia' >requirements/gpu.txt
echo "uv" | .venv/bin/python -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --constraint requirements/all.txt - -o requirements/uv.txt
