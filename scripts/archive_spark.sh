#!/usr/bin/env bash
# Keep the classes that a Spark driver loads in an archive of the JVM (class data sharing), so that every later driver starts faster.
# The driver is a real one: a simulated day goes through the lake, in a home of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
archive="$PWD/.setup/spark.jsa" home=$(mktemp -d) day=2026-01-01
trap 'rm -rf "$home"' EXIT
rm -f "$archive"
touch "$home/evershelf.toml"
run() { # with none of the user's settings
    env -i PATH="$PATH" HOME="$HOME" EVERSHELF_CONFIG="$home/evershelf.toml" EVERSHELF_HOME="$home" EVERSHELF_LAKE__SPARK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:ArchiveClassesAtExit=\"$archive\" -Xlog:cds=off -Xlog:cds+dynamic=off" \
        .venv/bin/evershelf "$@" >"$home/log" 2>&1 || { tail -20 "$home/log" >&2; exit 1; }
}
run simulate --out "$home/raw" --days 1 --end $day --visits 50
run ingest --data "$home/raw"
run run lake_daily --date $day
# Java writes it after its driver has ended.
for _ in {1..600}; do [[ -s $archive ]] && ! pgrep -f "ArchiveClassesAtExit=$archive" >/dev/null && exit 0; sleep 0.1; done
echo "Java made no archive of Spark's classes. Everything works; Spark only starts more slowly." >&2
