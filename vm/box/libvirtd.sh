#!/bin/sh
# Starts libvirtd where no systemd does (a container, a CI machine): for `vagrant up` with libvirt.
#
# Root only; for a machine that is yours alone: guests run as root, without a security driver.
# Does nothing where libvirt answers already.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
uri=qemu:///system

answers() { virsh -q -c "$uri" version >/dev/null 2>&1; }
if answers; then
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "libvirtd.sh: root is needed. Type: sudo sh $0" >&2; exit 2; }
command -v libvirtd >/dev/null || {
    echo "libvirtd.sh: missing: libvirt. Type: apt-get install -y --no-install-recommends" \
        "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86" \
        "dnsmasq-base iptables" >&2
    exit 2
}

# libvirtd refuses to start without them, although it starts guests as root here.
getent group libvirt-qemu >/dev/null || groupadd --system libvirt-qemu
getent passwd libvirt-qemu >/dev/null ||
    useradd --system --gid libvirt-qemu --no-create-home --shell /usr/sbin/nologin libvirt-qemu

conf=$(mktemp -d)
mkdir -p /etc/libvirt /var/log/libvirt/qemu
# stdio_handler: virtlogd is one more daemon. user: a /dev/kvm that only root may open would have
# libvirt probe QEMU anew at each call.
cat >/etc/libvirt/qemu.conf <<'EOF'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
EOF
cat >"$conf/libvirtd.conf" <<'EOF'
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
log_outputs = "3:stderr"
EOF
libvirtd --daemon --config "$conf/libvirtd.conf"
rm -rf "$conf"

tries=60
until answers; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "libvirtd.sh: libvirtd does not answer within 60 s" >&2; exit 1; }
    sleep 1
done
