# What the scripts here share. Sourced, not run.
# shellcheck shell=bash

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }
stop() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Whether we may act as root; then `as_root COMMAND…` does. Outside CI nobody's sudo is used behind their back.
may_be_root() { [ "$(id -u)" = 0 ] || { [ -n "${CI:-}" ] && sudo -n true 2>/dev/null; }; }
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian packages, without starting the services that they bring: those are the machine's affair, not ours.
install_packages() {
    command -v apt-get >/dev/null || stop "Missing: $*. This machine has no apt-get to install them with."
    say "installing $* with apt-get"
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_root env DEBIAN_FRONTEND=noninteractive timeout 900 sh -euc '
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\nexit 101\n" >"$policy"
            chmod 755 "$policy"
        fi
        install() { apt-get install -y -q --no-install-recommends "$@"; }
        { install "$@" || { apt-get update -q && install "$@"; }; } >"$0" 2>&1
    ' "${TMPDIR:-/tmp}/postlane-apt.$$" "$@" || {
        tail -n 30 "${TMPDIR:-/tmp}/postlane-apt.$$" >&2
        stop "apt-get could not install: $*"
    }
    as_root rm -f "${TMPDIR:-/tmp}/postlane-apt.$$"
}
