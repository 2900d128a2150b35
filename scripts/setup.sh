#!/usr/bin/env bash
# Install everything the rest needs. Idempotent; instant when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.setup/stamp
gpu=${HOROVOD_GPU_OPERATIONS:-}  # NCCL: see "Train on GPUs" in docs/operations.md
wanted() { { pwd; echo "$gpu"; java -version 2>&1 || true; cat requirements/*.txt scripts/*.sh scripts/*.patch deploy/*/pom.xml pyproject.toml; } | sha256sum; }
[[ -x .venv/bin/evershelf && -f $stamp && $(<"$stamp") == "$(wanted)" ]] && exit 0
mkdir -p .setup/bin
exec 9>.setup/lock
flock 9

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "System packages"
declare -A packages=([redis-server]=redis-server [wrk]=wrk [prometheus]=prometheus [promtool]=prometheus [java]=openjdk-17-jre-headless [mvn]=maven [g++]=g++)
missing=()
for command in "${!packages[@]}"; do command -v "$command" >/dev/null || missing+=("${packages[$command]}"); done
if [[ $EUID -eq 0 && ! -x /usr/sbin/sshd ]]; then  # tests train on "another host"; without root and without it they are skipped
    missing+=(openssh-server)
fi
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv python3-dev)
if ((${#missing[@]})); then
    if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
        # dpkg has one lock per machine: wait for another clone's set-up
        (flock 8; apt-get -qq update; DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -o DPkg::Lock::Timeout=600 install --no-install-recommends -y "${missing[@]}" >.setup/apt.log 2>&1 || {
            tail -20 .setup/apt.log >&2; exit 1; }) 8>/tmp/evershelf-apt.lock
        [[ " ${missing[*]} " != *" openssh-server "* ]] || update-rc.d ssh disable >>.setup/apt.log 2>&1 || true  # nobody asked for a service
    else
        echo "These packages are missing: ${missing[*]}. Nothing was installed; install them (Debian names) and run this again." >&2
        exit 1
    fi
fi
command -v go >/dev/null || { echo "Go is missing (1.22 or newer, for statsd_exporter). Install it and run this again." >&2; exit 1; }
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "python3 is $(python3 -V), but Python 3.11 is needed. Put it first in PATH and run this again." >&2; exit 1; }

step "StatsD exporter (in the background)"
(GOBIN="$PWD/.setup/bin" go install github.com/prometheus/statsd_exporter@v0.31.0 >.setup/go.log 2>&1) &
go_pid=$!

step "Python environment"
[[ -x .venv/bin/python ]] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/uv.txt
.venv/bin/python -m uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements/all.txt ${gpu:+requirements/gpu.txt}
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .

step "The jars of Spark and HDFS"
for jars in deploy/jars deploy/hdfs; do
    rm -rf "$jars/target"
    mvn --quiet --batch-mode --file "$jars/pom.xml" dependency:copy-dependencies
done

step "Horovod"
scripts/build_horovod.sh

step "Spark's classes"
scripts/archive_spark.sh

wait "$go_pid" || { tail -5 .setup/go.log >&2; echo "statsd_exporter did not build; metrics cannot be collected. The log is .setup/go.log." >&2; exit 1; }
wanted >"$stamp"
step "Set up"
