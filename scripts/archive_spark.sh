#!/usr/bin/env bash
# Keep the classes that a Spark driver loads in an archive of the JVM (class data sharing), so that every later driver starts faster.
# The driver is a real one: a simulated day goes through the lake, in a home of its own. Without the archive everything works, too.
set -euo pipefail
cd "$(dirname "$0")/.."
archive="$PWD/.setup/spark.jsa" home=$(mktemp -d) day=2026-01-01
trap 'rm -rf "$home"' EXIT
rm -f "$archive"
touch "$home/evershelf.toml"
for name in $(compgen -e | grep '^EVERSHELF_'); do unset "$name"; done # the user's settings, such as where the lake is
unset SPARK_CONF_DIR PYSPARK_SUBMIT_ARGS JAVA_TOOL_OPTIONS
export EVERSHELF_CONFIG="$home/evershelf.toml" EVERSHELF_HOME="$home"
export EVERSHELF_LAKE__SPARK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:ArchiveClassesAtExit=$home/spark.jsa -Xlog:cds=off -Xlog:cds+dynamic=off"
evershelf() { .venv/bin/evershelf "$@" >"$home/log" 2>&1; }
if evershelf simulate --out "$home/raw" --days 1 --end $day --visits 50 && evershelf ingest --data "$home/raw" && evershelf run lake_daily --date $day; then
    for _ in {1..600}; do # Java writes it after its driver has ended
        grep -qs "$home/[s]park.jsa" /proc/[0-9]*/cmdline || break
        sleep 0.1
    done
    mv "$home/spark.jsa" "$archive" && exit 0
fi
tail -5 "$home/log" >&2
echo "There is no archive of Spark's classes. Everything works; Spark only starts more slowly." >&2
