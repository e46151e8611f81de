"""Who runs a test: the user that is there, and, where that is root, an ordinary one too."""

import os
import sys
from pathlib import Path

import pytest

from harness.guest.catalogue import cache_dir

UID = 54321
"""A user without a name, a home or a group."""
_OPEN_HOME = """
set -e
uid=$1 home=$2; shift 2
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/home
mount --rbind "$home" /mnt/home
mount -t tmpfs -o mode=755 none "$home"
while [ "$1" != -- ]; do
    mkdir -p "$1"
    mount --rbind "/mnt/home/${1#$home/}" "$1"
    shift
done
shift
umount -l /mnt
exec setpriv --reuid="$uid" --regid="$uid" --clear-groups "$@"
"""
"""Python and the kernels may be in root's home, which is closed: in a namespace they are not."""

USERS = [
    "me",
    pytest.param(
        "ordinary",
        marks=pytest.mark.skipif(
            os.getuid() != 0, reason="only root can run a program as somebody else"
        ),
    ),
]


def command_as(user, command):
    """``command`` as it is run by a user of `USERS`."""
    if user == "me":
        return [str(word) for word in command]
    home = Path.home()
    shown = [
        str(path)
        for path in (Path(sys.base_prefix), cache_dir().parent)
        if path.is_relative_to(home)
    ]
    return [
        "unshare",
        "-m",
        "sh",
        "-c",
        _OPEN_HOME,
        "sh",
        str(UID),
        str(home),
        *shown,
        "--",
        *(str(word) for word in command),
    ]


def environment(user, place):
    """The environment for it; ``place`` is a directory that the user may write."""
    place.chmod(0o777)
    env = {**os.environ, "XDG_CACHE_HOME": str(cache_dir().parents[1])}
    return {**env, "HOME": str(place)} if user == "ordinary" else env
