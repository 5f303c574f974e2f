#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No installed plugin may need a symbol of the core, and each exports exactly its one door.
set -eu
for so in "$1"/*.so; do
  if nm -D --undefined-only "$so" | grep -q ' U tn_'; then
    echo "$so needs a symbol of the core"; exit 1
  fi
  doors=$(nm -D --defined-only "$so" | awk '{print $3}' | tr '\n' ' ')
  [ "$doors" = "tn_plugin_entry " ] || { echo "$so exports: $doors"; exit 1; }
done
