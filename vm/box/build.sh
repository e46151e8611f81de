#!/bin/bash
# Builds a Vagrant box (Debian 12, provider libvirt) from Debian packages: `make box`.
#
# For where no box can be downloaded. No loop device and no mount is needed: mke2fs fills the file
# system from a directory, and GRUB's images are put in their places by hand. Ends with
# `vagrant box add`. Arguments: MIRROR, a Debian mirror; DIRECTORY, where the box is left.
set -euo pipefail
mirror=$1
out=$2
name=dmsnap/debian12
suite=bookworm
disk_mib=4096
start_mib=1

need() {
    local missing=() package program
    while read -r program package; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing+=("$package")
    done <<'EOF'
vagrant vagrant
mmdebstrap mmdebstrap
sfdisk fdisk
mke2fs e2fsprogs
qemu-img qemu-utils
grub-mkimage grub-common
EOF
    [[ -e /usr/lib/grub/i386-pc/boot.img ]] || missing+=(grub-pc-bin)
    if ((${#missing[@]})); then
        echo "make box: missing: ${missing[*]}." \
            "Type: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 2
    fi
}
need
if ((EUID != 0)); then
    echo "make box: a root file system needs root. Type: sudo make box" >&2
    exit 2
fi
PATH="$PATH:/usr/sbin:/sbin"
say() { printf 'make box: %s\n' "$*" >&2; }

mkdir -p "$out"
work=$(mktemp -d "$out/.box.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

packages=(linux-image-amd64 initramfs-tools lz4 systemd systemd-sysv dbus udev kmod iproute2
    openssh-server sudo rsync python3 python3-venv dmsetup ca-certificates e2fsprogs procps lvm2)
modules=(virtio_pci virtio_blk virtio_scsi virtio_net sd_mod ata_piix ahci ext4 crc32c_generic)

say "installing $suite"
# The initramfs is made while the kernel is configured, so what it reads must be there before.
prepare="mkdir -p \"\$1/etc/initramfs-tools/conf.d\"
printf '%s\n' ${modules[*]} >\"\$1/etc/initramfs-tools/modules\"
printf 'MODULES=list\nCOMPRESS=lz4\nRESUME=none\nFSTYPE=ext4\n' \
    >\"\$1/etc/initramfs-tools/conf.d/dmsnap\""
mmdebstrap --quiet --variant=minbase --mode=root --format=directory \
    --include="$(IFS=,; echo "${packages[*]}")" --essential-hook="$prepare" \
    --customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/man/*' \
    "$suite" "$root" "$mirror"

say "configuring"
key=$(find /usr/share -path '*vagrant*/keys/vagrant.pub' -print -quit)
chroot "$root" useradd -m -s /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 0440 "$root/etc/sudoers.d/vagrant"
install -d -m 0700 "$root/home/vagrant/.ssh"
install -m 0600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
printf '[Match]\nType=ether\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/20-ether.network"
chroot "$root" systemctl -q enable systemd-networkd ssh
echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/dmsnap.conf"
: >"$root/etc/machine-id"
echo 'LABEL=root / ext4 noatime 0 1' >"$root/etc/fstab"
echo dmsnap >"$root/etc/hostname"
echo '127.0.0.1 localhost dmsnap' >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<'EOF'
set root=(hd0,msdos1)
linux /vmlinuz root=LABEL=root ro net.ifnames=0 console=tty0 console=ttyS0,115200n8 quiet
initrd /initrd.img
boot
EOF

say "making the disk"
raw=$work/disk.raw
truncate -s "${disk_mib}M" "$raw"
echo "start=$((start_mib * 2048)), type=83, bootable" | sfdisk -q "$raw"
mke2fs -q -t ext4 -L root -O ^metadata_csum_seed,^orphan_file -d "$root" \
    -E "offset=$((start_mib << 20))" "$raw" "$((disk_mib - start_mib))M"
grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o "$work/core.img" \
    biosdisk part_msdos ext2 normal configfile linux
dd if=/usr/lib/grub/i386-pc/boot.img of="$raw" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$raw" bs=512 seek=1 conv=notrunc status=none

say "packing"
box=$work/box
mkdir "$box"
qemu-img convert -c -O qcow2 "$raw" "$box/box.img"
printf '{"provider":"libvirt","format":"qcow2","virtual_size":%d}\n' "$((disk_mib >> 10))" \
    >"$box/metadata.json"
echo 'Vagrant.configure("2") { |config| }' >"$box/Vagrantfile"
tar -C "$box" -czf "$work/dmsnap.box" metadata.json Vagrantfile box.img
mv "$work/dmsnap.box" "$out/dmsnap.box"
vagrant box add --force --no-tty --name "$name" --provider libvirt "$out/dmsnap.box" >/dev/null
say "$out/dmsnap.box ($(du -h "$out/dmsnap.box" | cut -f1)) is Vagrant's box $name now." \
    "Type: DMSNAP_BOX=$name vagrant up"
