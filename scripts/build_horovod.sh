#!/usr/bin/env bash
# Build the Horovod wheel (TensorFlow, Gloo, no MPI) once per machine and install it into .venv.
# HOROVOD_GPU_OPERATIONS=NCCL adds NCCL, for ranks on GPUs: by the CUDA toolkit in HOROVOD_CUDA_HOME and the NCCL of requirements/gpu.txt.
# The newest Horovod predates TensorFlow 2.21: some XLA headers moved, so a folder of forwarding headers bridges old paths to new ones.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$PWD/.venv/bin/python"
gpu=${HOROVOD_GPU_OPERATIONS:-}
if [[ $gpu ]]; then
    export HOROVOD_CUDA_HOME="${HOROVOD_CUDA_HOME:-/usr/local/cuda}"
    nccl=$("$python" -c 'import importlib.util; print(*getattr(importlib.util.find_spec("nvidia.nccl"), "submodule_search_locations", []))' 2>/dev/null) || true
    [[ $gpu == NCCL ]] || wrong="HOROVOD_GPU_OPERATIONS is $gpu: only NCCL can be built here"
    [[ -e $nccl/lib/libnccl.so.2 ]] || wrong="the NCCL of requirements/gpu.txt is not in .venv: run \`make setup\`"
    [[ -x $HOROVOD_CUDA_HOME/bin/nvcc ]] || wrong="there is no $HOROVOD_CUDA_HOME/bin/nvcc: install a CUDA 12 toolkit, or set HOROVOD_CUDA_HOME"
    if [[ ${wrong:-} ]]; then
        echo "Horovod was not built for GPUs; $wrong. Nothing is changed for serving; unset HOROVOD_GPU_OPERATIONS to train on CPUs." >&2
        exit 1
    fi
fi
gpu_key() { [[ -z $gpu ]] || { cat requirements/gpu.txt && "$HOROVOD_CUDA_HOME/bin/nvcc" --version; }; }
key=$(cat "$0" scripts/horovod.patch requirements/horovod.txt <(grep -E '^tensorflow==' requirements/all.txt) <(gpu_key) | sha256sum | cut -c1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/evershelf/horovod-$key"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9  # two clones may set up at once

if ! compgen -G "$cache/horovod-*.whl" >/dev/null; then
    echo "Building Horovod (once per machine, 2 to 4 minutes; log: $cache/build.log)"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    include=$("$python" -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent / "include")')
    forward() { # old header path, new header path
        mkdir -p "$work/include/$(dirname "$1")"
        echo "#include \"$2\"" >"$work/include/$1"
    }
    forward tensorflow/compiler/xla/client/xla_builder.h xla/hlo/builder/xla_builder.h
    echo "namespace xla { template <typename T> using StatusOr = absl::StatusOr<T>; }" >>"$work/include/tensorflow/compiler/xla/client/xla_builder.h"
    for header in service/custom_call_target_registry.h service/hlo.pb.h shape.h xla_data.pb.h; do
        forward "tensorflow/compiler/xla/$header" "xla/$header"
    done
    export CPLUS_INCLUDE_PATH="$work/include:$include/external/farmhash_archive/src:$include/external/highwayhash"
    export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_MPI=1
    if [[ $gpu ]]; then
        ln -sf libnccl.so.2 "$nccl/lib/libnccl.so"  # the name that linkers look for
        export HOROVOD_NCCL_INCLUDE="$nccl/include" HOROVOD_NCCL_LIB="$nccl/lib" HOROVOD_NCCL_LINK=SHARED
        export LDFLAGS="-Wl,-rpath,\$ORIGIN/../../nvidia/nccl/lib"  # from horovod/tensorflow to the same folder of packages
    fi
    export PATH="$PWD/.venv/bin:$PATH" MAKEFLAGS="-j$(nproc)"
    changed_source() {
        "$python" -m pip download --no-deps --no-build-isolation --no-binary :all: --require-hashes --dest "$work" -r requirements/horovod.txt &&
            mkdir "$work/source" && tar -xzf "$work"/horovod-*.tar.gz -C "$work/source" --strip-components 1 &&
            git -C "$work/source" apply "$PWD/scripts/horovod.patch"
    }
    if ! { changed_source && "$python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$work/source"; } >"$cache/build.log" 2>&1; then
        tail -30 "$cache/build.log" >&2
        echo "Horovod did not build: nothing can be trained on this machine. The whole log is $cache/build.log." >&2
        exit 1
    fi
    mv "$work"/wheel/horovod-*.whl "$cache/"
fi
"$python" -m uv pip install -q --python "$python" --no-deps "$cache"/horovod-*.whl
