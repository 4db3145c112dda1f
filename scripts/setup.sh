#!/usr/bin/env bash
# Installs what the build needs, through the system's package manager, and says so.
# Does nothing, quickly, when all of it is there.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

needed=()
command -v g++ >/dev/null || needed+=(g++)
command -v make >/dev/null || needed+=(make)
command -v cmake >/dev/null || needed+=(cmake)
have_libclang=no
for library in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so*; do
  [ -e "$library" ] && have_libclang=yes
done
[ "$have_libclang" = yes ] || needed+=(libclang-dev)

if [ ${#needed[@]} -gt 0 ]; then
  say "missing: ${needed[*]}"
  root=()
  [ "$(id -u)" = 0 ] || root=(sudo)
  if command -v apt-get >/dev/null; then
    say "installing with apt-get"
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq "${needed[@]}" >/dev/null
  elif command -v dnf >/dev/null; then
    say "installing with dnf"
    "${root[@]}" dnf install -y -q gcc-c++ make cmake clang-devel
  else
    fail "no apt-get and no dnf here: install ${needed[*]} by hand, then run this again"
  fi
fi

if ! command -v cargo >/dev/null; then
  if command -v apt-get >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
    say "installing the Rust toolchain with apt-get (rustup)"
    root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq rustup >/dev/null
    rustup default stable
  else
    fail "no Rust toolchain: install Rust 1.90 or newer from https://rustup.rs, then run this again"
  fi
fi
for component in rustfmt clippy; do
  case "$component" in rustfmt) probe="cargo fmt --version" ;; *) probe="cargo clippy --version" ;; esac
  $probe >/dev/null 2>&1 || { say "adding $component"; rustup component add "$component"; }
done
say "ready: $(cargo --version), target directory ${CARGO_TARGET_DIR:-target}"
