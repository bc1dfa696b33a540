#!/usr/bin/env bash
# Builds everything that is released into one folder: deb, rpm, the bare binary, bill of materials, checksums.
#
#   packaging/release.sh [--out DIR] [--binary FILE] [--version X.Y.Z] [--without-sbom]
#
# --out        default: target/packages
# --binary     package this one instead of building it; it must have been built by `cargo auditable build --release`
#              for the package to carry the list of its dependencies
# --version    of the packages; default: that of Cargo.toml
# Needs a Rust toolchain, gcc, binutils, gzip; installs cargo-deb, cargo-generate-rpm, cargo-auditable and cargo-cyclonedx
# where they are missing. The binary needs glibc 2.34 or newer on the machine it runs on: Debian 12, Ubuntu 22.04, RHEL 9
# and their relatives. The script fails where it would need a newer one.
set -euo pipefail
cd "$(dirname "$0")/.."

GLIBC_MAX=2.34
out=target/packages binary='' version='' sbom=yes
while [[ $# -gt 0 ]]; do
    case $1 in
        --out) out=$2 && shift 2 ;;
        --binary) binary=$2 && shift 2 ;;
        --version) version=$2 && shift 2 ;;
        --without-sbom) sbom=no && shift ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
done
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
stage=target/package
version=${version:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}

die() { echo "release.sh: $*" >&2; exit 1; }

# Tools are built without optimisation where that is most of the time: they run for seconds.
tool() {
    command -v "$1" >/dev/null && return
    echo "installing $1 $2"
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        CARGO_PROFILE_RELEASE_DEBUG=0 cargo install --locked --quiet "$1@$2"
}

build() {
    if [[ -z $binary ]]; then
        tool cargo-auditable 0.7.7
        cargo auditable build --release --locked
        binary=${CARGO_TARGET_DIR:-target}/release/holdline
    fi
    [[ -x $binary ]] || die "$binary is no program"
    local needed
    needed=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
    [[ $(printf 'GLIBC_%s\n%s\n' "$GLIBC_MAX" "$needed" | sort -V | tail -n 1) == "GLIBC_$GLIBC_MAX" ]] ||
        die "the binary needs $needed, and the packages promise to need no more than $GLIBC_MAX; build it on Debian 12"
}

# The packages refuse to replace a holdline whose store they cannot read; what they know stands in three places.
hold_format_equal() {
    local format file
    format=$(sed -n 's/^const FORMAT: u32 = \([0-9]*\);/\1/p' src/store/engine/folder.rs)
    for file in packaging/deb/preinst packaging/rpm/pre.sh; do
        grep -qx "format_known=$format" "$file" || die "$file must say format_known=$format, as src/store/engine/folder.rs does"
    done
}

stage_files() {
    rm -rf "$stage"
    mkdir -p "$stage"/{man,completions,share,doc} "$out"
    strip --strip-unneeded -o "$stage/holdline" "$binary"
    "$stage/holdline" man "$stage/man"
    gzip -9n "$stage"/man/*.[15]
    "$stage/holdline" completions bash >"$stage/completions/holdline.bash"
    "$stage/holdline" completions zsh >"$stage/completions/_holdline"
    "$stage/holdline" completions fish >"$stage/completions/holdline.fish"
    # a packaged holdline takes its sockets from systemd, so that no connection is refused while it restarts
    sed 's/^listen = "127\.0\.0\.1:8080"$/listen = "systemd"/' packaging/holdline.toml >"$stage/holdline.toml"
    grep -qx 'listen = "systemd"' "$stage/holdline.toml" || die "packaging/holdline.toml has no line listen = ..."
    "$stage/holdline" check --config "$stage/holdline.toml" >/dev/null
    cp packaging/holdline.toml "$stage/share/holdline.toml.example"
    # alert rules and the dashboard
    find packaging -maxdepth 2 \( -name '*.yml' -o -name '*.yaml' -o -name '*.json' \) -exec cp {} "$stage/share/" \;
    gzip -9nc CHANGELOG.md >"$stage/doc/changelog.gz"
    local date
    date=$(git log -1 --format=%aD 2>/dev/null || date -R)
    printf 'holdline (%s-1) unstable; urgency=medium\n\n  * See /usr/share/doc/holdline/changelog.gz.\n\n -- %s  %s\n' \
        "$version" "holdline maintainers <maintainers@holdline.invalid>" "$date" |
        gzip -9n >"$stage/doc/changelog.Debian.gz"
}

pack() {
    tool cargo-deb 3.8.0
    tool cargo-generate-rpm 0.21.1
    cargo deb --quiet --no-build --no-strip --deb-version "$version-1" --output "$out/"
    cargo generate-rpm --auto-req disabled --set-metadata "version = \"$version\"" --output "$out/"
    cp "$stage/holdline" "$out/holdline-$version-$(uname -m)"
    if [[ $sbom == yes ]]; then
        tool cargo-cyclonedx 0.5.9
        cargo cyclonedx --quiet --format json --override-filename holdline.cdx
        mv holdline.cdx.json "$out/holdline-$version.cdx.json"
    fi
    (cd "$out" && rm -f SHA256SUMS && sha256sum -- * >/tmp/holdline-sums.$$ && mv /tmp/holdline-sums.$$ SHA256SUMS)
}

build
hold_format_equal
stage_files
pack
ls -l "$out"
