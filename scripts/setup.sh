#!/usr/bin/env bash
# Installs what the build needs, through the system's package manager, and says so.
# Does nothing, quickly, when all of it is there. WITH_PEERS=1 also installs what hearth-bench compares
# Hearth with; a peer that is missing is reported as absent.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

root=()
[ "$(id -u)" = 0 ] || root=(sudo)

# The C interface of clang, which binds RocksDB; libclang-cpp.so is another library.
have_libclang() {
  local library
  for library in {/usr/lib/llvm-*/lib,/usr/lib/*,/usr/lib64,/usr/lib}/libclang{,-[0-9]*}.so*; do
    [ ! -e "$library" ] || return 0
  done
  return 1
}

# Lets the clock of a process jump.
have_libfaketime() {
  local library
  for library in /usr/lib/*/faketime/libfaketime.so.1 /usr/lib{,64}{,/faketime}/libfaketime.so.1; do
    [ ! -e "$library" ] || return 0
  done
  return 1
}

# Whether version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

needed=()
command -v g++ >/dev/null || needed+=(g++)
command -v make >/dev/null || needed+=(make)
command -v cmake >/dev/null || needed+=(cmake)
have_libclang || needed+=(libclang-dev)
if [ -n "${WITH_PEERS:-}" ]; then
  command -v fio >/dev/null || needed+=(fio)
  command -v etcd >/dev/null || needed+=(etcd-server)
  # Mooncake comes from PyPI into an environment of its own, which hearth-bench makes.
  python3 -c 'import ensurepip' 2>/dev/null || needed+=(python3-venv)
fi

# What single tests need, which say so where it is missing: clocks that jump and, for root, links that are cut.
wanted=()
have_libfaketime || wanted+=(faketime)
if [ "$(id -u)" = 0 ]; then
  command -v ip >/dev/null || wanted+=(iproute2)
  command -v nft >/dev/null || wanted+=(nftables)
fi

if [ ${#needed[@]} -gt 0 ]; then
  say "missing: ${needed[*]}"
  if command -v apt-get >/dev/null; then
    say "installing with apt-get"
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${needed[@]}" >/dev/null
  elif command -v dnf >/dev/null; then
    say "installing with dnf"
    "${root[@]}" dnf install -y -q gcc-c++ make cmake clang-devel
  else
    fail "no apt-get and no dnf here: install ${needed[*]} by hand, then run this again"
  fi
fi

if [ ${#wanted[@]} -gt 0 ]; then
  say "missing for some of the tests: ${wanted[*]}"
  if command -v apt-get >/dev/null; then
    install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq)
    apt-cache show "${wanted[@]}" >/dev/null 2>&1 || "${root[@]}" apt-get update -qq || true
  else
    install=(dnf install -y -q)
    wanted=("${wanted[@]/#faketime/libfaketime}")
    wanted=("${wanted[@]/#iproute2/iproute}")
  fi
  for package in "${wanted[@]}"; do
    "${root[@]}" "${install[@]}" "$package" >/dev/null 2>&1 || say "no $package here: the tests that need it say what they leave out"
  done
fi

manifest="$(dirname "$0")/../Cargo.toml"
rust_wanted="$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$manifest")"
[ -n "$rust_wanted" ] || fail "no rust-version in $manifest"

# A system that was never asked for its packages knows of none.
apt_has_rustup() {
  command -v apt-get >/dev/null || return 1
  apt-cache show rustup >/dev/null 2>&1 && return 0
  say "asking apt-get for its lists"
  "${root[@]}" apt-get update -qq
  apt-cache show rustup >/dev/null 2>&1
}

if ! command -v cargo >/dev/null; then
  if ! command -v rustup >/dev/null; then
    apt_has_rustup || fail "no Rust toolchain: install Rust $rust_wanted or newer from https://rustup.rs, then run this again"
    say "installing the Rust toolchain with apt-get (rustup)"
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup >/dev/null
  fi
  rustup default stable
fi
rust_found="$(cargo --version | cut -d ' ' -f 2)" || fail "cargo does not run; with rustup, run: rustup default stable"
if ! at_least "${rust_found%%-*}" "$rust_wanted"; then
  if command -v rustup >/dev/null; then
    fail "cargo is $rust_found and Hearth needs Rust $rust_wanted: run 'rustup update stable && rustup default stable'"
  fi
  fail "cargo is $rust_found and Hearth needs Rust $rust_wanted: install it from https://rustup.rs and put ~/.cargo/bin first in PATH"
fi
for component in rustfmt clippy; do
  case "$component" in rustfmt) probe="cargo fmt --version" ;; *) probe="cargo clippy --version" ;; esac
  if ! $probe >/dev/null 2>&1; then
    command -v rustup >/dev/null || fail "no $component: install it beside your cargo, which rustup does not manage"
    say "adding $component"
    rustup component add "$component"
  fi
done
say "ready: $(cargo --version), target directory ${CARGO_TARGET_DIR:-target}"
