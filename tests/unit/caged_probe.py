"""Run in a cage, as code that has taken a guest's process over would be: try everything.

Prints, as JSON, what could be done.  Its argument says what of the host there is to be touched.
"""

import ctypes
import json
import os
import signal
import socket
import stat
import sys

host = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
done: dict[str, object] = {}
uid = os.getuid()


def attempt(name, act):
    """Do it; what it returns is the proof that it could be done."""
    try:
        found = act()
    except (OSError, ValueError):
        return
    if found:
        done[name] = found


def called(result):
    """A call of the C library, which answers -1 if it may not."""
    return result != -1


def writable():
    """Directories, of all that can be found, in which a file can be made."""
    found = []
    for top, names, _ in os.walk("/"):
        if top.count("/") > 3 or top in host["own"]:
            names.clear()
        path = os.path.join(top, "dmsnap-was-here")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)
        except OSError:
            continue
        if top not in host["own"]:
            found.append(top)
        if len(found) == 3:
            break
    return found


def did(act):
    """It went through."""
    act()
    return True


def changed(act):
    """Whether the victim is another one after it."""
    before = os.stat(host["victim"])
    act()
    after = os.stat(host["victim"])
    return before != after


def connected(family, address):
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)
        return True


def overwrite():
    with open(host["victim"], "r+b") as file:
        file.write(b"X")
    return True


def make_device():
    path = os.path.join(host["results"], "device")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 1))
    return True


def remount():
    # Where it can be done, it is not done to the host.
    if not called(libc.unshare(0x20000)):
        return False
    libc.mount(b"none", b"/", None, ctypes.c_ulong(0x4000 | 0x40000), None)
    return called(libc.mount(b"none", b"/", None, ctypes.c_ulong(0x20 | 0x1000), None))


def mount_tmpfs():
    done = called(libc.mount(b"none", host["results"].encode(), b"tmpfs", ctypes.c_ulong(0), None))
    libc.umount(host["results"].encode())
    return done


def processes():
    return [name for name in os.listdir("/proc") if name.isdigit() and name == str(host["pid"])]


def text(path):
    with open(path) as file:
        return file.read()


def kill():
    os.kill(host["pid"], signal.SIGUSR1)
    return True


def read(path):
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a console has nothing to say
    return len(os.read(handle, 9000)) > 0


attempt("writes", writable)
attempt("overwrites", overwrite)
attempt("chmod", lambda: changed(lambda: os.chmod(host["victim"], 0o777)))
attempt("utime", lambda: changed(lambda: os.utime(host["victim"], (1, 1))))
attempt("xattr", lambda: changed(lambda: os.setxattr(host["victim"], "user.x", b"1")))
attempt("links out", lambda: did(lambda: os.link(host["victim"], host["results"] + "/linked")))
attempt(
    "old root",
    lambda: (
        host["kind"] != "landlock"
        and [
            way
            for way in ("/..", "/../..", "/proc/1/root", "/proc/self/cwd/..")
            if os.path.exists(way + host["victim"]) or os.path.exists(way + "/run")
        ]
    ),
)
attempt("secret", lambda: read(host["secret"]))
attempt("shadow", lambda: read("/etc/shadow"))
attempt("device", make_device)
for name in ("kmsg", "mem", "sda", "vda", "tty0", "loop-control", "fuse", "net/tun"):
    attempt(f"/dev/{name}", lambda name=name: read(f"/dev/{name}"))
for name in ("version", "kcore", "1/environ", "sys/kernel/core_pattern", f"{host['pid']}/environ"):
    attempt(f"/proc/{name}", lambda name=name: read(f"/proc/{name}"))
attempt("core_pattern", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) > 0)
attempt("/sys", lambda: read("/sys/kernel/uevent_seqnum"))
attempt("processes", processes)
attempt("kill", kill)
attempt("unix socket", lambda: connected(socket.AF_UNIX, host["socket"]))
attempt("abstract socket", lambda: connected(socket.AF_UNIX, "\0" + host["abstract"]))
attempt("tcp", lambda: connected(socket.AF_INET, ("127.0.0.1", host["port"])))
attempt(
    "udp",
    lambda: bool(
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", host["port"]))
    ),
)
attempt(
    "netlink",
    lambda: (
        host["kind"] == "landlock" and bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
    ),
)
attempt("remount", remount)
attempt("mount", mount_tmpfs)
attempt(
    "capabilities",
    lambda: [
        line
        for line in text("/proc/self/status").splitlines()
        if line.startswith("CapEff") and int(line.split()[1], 16)
    ],
)
# What it needs does work.
needs = []
try:
    with open(os.path.join(host["results"], "written"), "w") as file:
        file.write("x")
    needs.append("results")
    with open("/dev/null", "w") as file:
        file.write("x")
    needs.append("null")
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    needs.append("fork")
except OSError as fault:
    needs.append(str(fault))
attempt("unlinks", lambda: did(lambda: os.unlink(host["victim"])))
if uid == 0:
    attempt("setuid", lambda: did(lambda: os.setuid(12345)))
attempt("user namespace", lambda: called(libc.unshare(0x10000000)))
print(json.dumps({"done": done, "needs": needs, "uid": uid}))
