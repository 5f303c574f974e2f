#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh build DIR | list | run DIR ENTRY SECONDS - the fuzz entries under libFuzzer with
# address and undefined-behaviour sanitizers. Inputs that once broke something are kept in
# tests/corpus/ENTRY and are always tried first.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
entries() { for f in "$top"/tests/fuzz_*.c; do basename "$f" .c | sed 's/^fuzz_//'; done; }
flags="-std=gnu11 -D_GNU_SOURCE -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -I$top/include"
case "$1" in
  list) entries ;;
  build)
    mkdir -p "$2/core"
    defs=(-DTN_PLUGIN_DIR='"/nowhere"' -DTN_CONF_FILE='"/nowhere/tenon.ini"' -DTN_VERSION='"0"')
    for c in "$top"/runtime/*.c; do
      case $c in */main.c | */cmd_*.c) continue ;; esac
      # shellcheck disable=SC2086
      clang $flags -fsanitize=fuzzer-no-link "${defs[@]}" -I"$top/runtime" -c "$c" -o "$2/core/$(basename "$c" .c).o"
    done
    rm -f "$2/core.a"; ar rcs "$2/core.a" "$2"/core/*.o
    for e in $(entries); do
      extra= inc=
      # A fuzz entry names the plugin whose sources it needs: "fuzz: plugin NAME".
      for p in $(sed -nE 's/.*fuzz: plugin ([a-z]+).*/\1/p' "$top/tests/fuzz_$e.c"); do
        extra="$extra $(ls "$top"/plugins/"$p"/*.c | tr '\n' ' ')"; inc="$inc -I$top/plugins/$p"
      done
      # Or single sources, as patterns from the top: "fuzz: source PATTERN".
      for s in $(sed -nE 's/.*fuzz: source ([^ ]+).*/\1/p' "$top/tests/fuzz_$e.c"); do
        # shellcheck disable=SC2086
        extra="$extra $(ls $top/$s | tr '\n' ' ')"; inc="$inc -I$top/$(dirname "$s")"
      done
      # shellcheck disable=SC2086
      clang $flags -fsanitize=fuzzer -I"$top/runtime" -I"$top/tests" $inc "$top/tests/fuzz_$e.c" $extra "$2/core.a" \
        -o "$2/$e" -linih -lpcre2-8 -lutf8proc -lmicrohttpd -lpthread -ldl -lm
    done ;;
  run)
    mkdir -p "$2/corpus/$3" "$top/tests/corpus/$3" 2>/dev/null || true
    cd "$2"
    seeds=("$2/corpus/$3")
    [ -d "$top/tests/corpus/$3" ] && seeds+=("$top/tests/corpus/$3")
    "./$3" -max_total_time="$4" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 "${seeds[@]}" ;;
  *) echo "fuzz.sh: build DIR | list | run DIR ENTRY SECONDS" >&2; exit 64 ;;
esac
