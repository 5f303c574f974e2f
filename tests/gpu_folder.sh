#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# gpu_folder.sh BUILD SOURCE: gathers in BUILD/gpu what tests/check_gpu.py wants on a machine with a
# card: the program, its plugins, test programs, and the libraries that such a machine may lack.
set -eu
build=$1 source=$2 to=$1/gpu
rm -rf "$to"
mkdir -p "$to/bin" "$to/lib/tenon" "$to/libs" "$to/tests" "$to/ptx75"
cp "$build/tenon" "$to/bin/tenon"
for p in awq gptq cpu http cuda; do
  cp "$build/.libs/$p.so" "$to/lib/tenon/"
done
[ ! -e "$build/.libs/cudaptx.so" ] || cp "$build/.libs/cudaptx.so" "$to/ptx75/cuda.so"
for t in attend delta sample; do
  cp "$build/gpu_$t" "$to/tests/cuda_$t"
done
cp "$build/gpu_device" "$to/tests/test_cuda_device"
cp "$source/tests/check_gpu.py" "$to/"
for f in "$to/bin/tenon" "$to/lib/tenon/http.so" "$to/tests/test_cuda_device"; do
  ldd "$f"
done | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -E '/lib(inih|pcre2|utf8proc|edit|tinfo|ncurses|bsd|md|microhttpd|cmocka|gnutls|p11-kit|idn2|unistring|tasn1|nettle|hogweed|gmp|ffi)[-.0-9a-z]*\.so' |
  while read -r l; do cp -L "$l" "$to/libs/"; done
strip 2>/dev/null "$to/bin/tenon" "$to"/lib/tenon/*.so "$to"/tests/* "$to"/ptx75/* || true
du -sh "$to" | cut -f1
