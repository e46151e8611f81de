#!/bin/sh
# Makes .venv ready for use; called by make before everything else, silent when there is nothing to do.
#
# It installs no system package: what is missing is named in one line with the command to type.
# .venv/.ready is written last and says what .venv was made for: this directory, this Python, this
# pyproject.toml. A venv without it was left half-made and is recreated, and so is one that was
# moved or lost its Python (the programs in it name both); for a new pyproject.toml it is updated
# in place.
set -eu
cd "$(dirname "$0")/.."

# What in a user's environment may interfere with a venv.
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
export LC_ALL=C PIP_DISABLE_PIP_VERSION_CHECK=1

VENV=.venv
STAMP=$VENV/.ready

say() { printf 'dmsnap setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

home() {
    printf '%s\n' "$PWD"
    "$VENV/bin/python" -c 'import platform; print(platform.python_version())' 2>/dev/null
}
wanted() {
    home
    cat pyproject.toml vm/setup.sh | cksum
}

# Where an ordinary user's PATH has no sbin, dmsetup is there all the same.
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

usable() { # a Python that can make a venv; a pyenv shim without a version behind it cannot
    "$1" -c 'import ensurepip, sys, venv
sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1
}

find_python() {
    for python in ${PYTHON:-} python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3
    do
        if usable "$python"; then
            printf '%s\n' "$python"
            return
        fi
    done
}

at_home() { [ "$(head -n 2 "$STAMP" 2>/dev/null)" = "$(home)" ]; }
ready() { [ -f "$STAMP" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$(wanted)" ]; }

# What another user (root, most likely) left here, in a directory of ours: out of the way.
set_aside() {
    if [ -e "$1" ] && ! rm -rf "$1" 2>/dev/null; then
        mv "$1" "$1.stale.$$" ||
            die "$PWD/$1 belongs to $(stat -c %U "$1"). Type: sudo rm -rf $PWD/$1"
        say "$1 belonged to somebody else and is now $1.stale.$$; sudo rm -rf it when you like"
    fi
}
for cache in report .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache; do
    [ ! -e "$cache" ] || [ -w "$cache" ] || set_aside "$cache"
done

if ready; then
    exit 0
fi

have apt-get && have dpkg-deb || die "apt-get and dpkg-deb are missing:" \
    "dmsnap fetches its kernels from Debian and runs on Debian 12 or newer, or on Ubuntu"
python=$(find_python)
missing=
have dmsetup || missing="$missing dmsetup"
if [ -z "$python" ]; then
    if old=$(python3 -c 'import sys; sys.exit(sys.version_info >= (3, 11))' 2>&1 && python3 -V); then
        die "Python 3.11 or newer is missing ($old is too old); Debian 12 and newer have it"
    fi
    missing="$missing python3-venv"
fi
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
if [ -n "$missing" ]; then
    sudo="sudo "
    [ "$(id -u)" != 0 ] || sudo=
    die "missing:$missing. Type: ${sudo}apt-get install -y$missing"
fi

# Two at once (make run and make test in two terminals): the second waits, and finds it done.
exec 9<vm/setup.sh
flock 9
if ready; then
    exit 0
fi
[ -w . ] || die "$PWD cannot be written by $(id -un). Clone the repository to a place of your own"

if ! at_home || [ ! -w "$VENV" ] || [ ! -w "$STAMP" ] ||
    ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    say "making $VENV with $python ($("$python" -V 2>&1))"
    set_aside "$VENV"
    "$python" -m venv "$VENV"
else
    say "bringing $VENV up to date"
fi
rm -f "$STAMP"
# Dependency groups came with pip 25.1; Debian 12 has 23.0.
for what in "--upgrade pip>=25.1" "--editable . --group dev"; do
    # shellcheck disable=SC2086  # several words on purpose
    "$VENV/bin/python" -m pip install --quiet --no-input $what ||
        die "pip failed (its words are above). Is PyPI within reach? Typing the same again is safe"
done
wanted > "$STAMP.part"
mv "$STAMP.part" "$STAMP"
say "done"
