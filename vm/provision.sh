#!/bin/sh
# Makes a Debian machine fit to run dmsnap's scenarios; Vagrant runs it as root in the machine.
#
# /dmsnap is a copy of this repository. Python packages come from build/wheels in it, where `make
# wheels` put them, else from the network. Twice in a row does no harm.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1
cd /dmsnap

missing=
for package in dmsetup python3-venv ca-certificates; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    apt-get update -q
    # shellcheck disable=SC2086  # several words on purpose
    apt-get install -y -q --no-install-recommends $missing
fi

# The venv says what it was made for; a copy that has changed since is installed again.
wanted=$(cat pyproject.toml vm/provision.sh | cksum)
if [ "$(cat .venv/.provisioned 2>/dev/null)" != "$wanted" ]; then
    rm -rf .venv
    python3 -m venv .venv
    if [ -d build/wheels ]; then
        .venv/bin/pip install -q --no-index --find-links build/wheels --no-build-isolation \
            hatchling editables
        .venv/bin/pip install -q --no-index --find-links build/wheels --no-build-isolation -e .
    else
        .venv/bin/pip install -q -e .
    fi
    printf '%s\n' "$wanted" >.venv/.provisioned
fi

# This machine is a guest, and nothing on it matters.
touch /etc/dmsnap-disposable
.venv/bin/dmsnap --version
