set -u
export LC_ALL=C DM_DISABLE_UDEV=1
if [ "${1-}" != --this-machine-is-disposable ]; then
    echo "usage: sh $0 --this-machine-is-disposable" >&2
    echo "It overwrites /dev/ram0, makes device-mapper devices, and may kill the kernel." >&2
    exit 2
fi
[ -b /dev/ram0 ] || modprobe brd rd_nr=1 rd_size=65536 || exit 2
modprobe -q dm-snapshot 2>/dev/null
dmsetup targets | grep -q '^snapshot ' || { echo "no dm-snapshot in this kernel" >&2; exit 2; }

ram=/dev/ram0  # where the disks are made
next=0  # its first sector that no disk has taken yet
disk() {  # NAME SECTORS: /dev/mapper/bug_NAME, full of zeros
    dmsetup create "bug_$1" --table "0 $2 linear $ram $next" || exit 2
    dd if=/dev/zero of="/dev/mapper/bug_$1" bs=512 count="$2" conv=fsync 2>/dev/null
    eval "at_$1=$next size_$1=$2"; next=$((next + $2))
}
table() {  # NAME TABLE: replace the table of a live device
    dmsetup load "bug_$1" --table "$2" && dmsetup suspend "bug_$1" && dmsetup resume "bug_$1"
}
heal() { eval "table $1 \"0 \$size_$1 linear $ram \$at_$1\""; }
fail() {  # NAME FIRST COUNT: these sectors of the disk give I/O errors
    eval "a=\$at_$1 n=\$size_$1"; e=$(($2 + $3))
    { [ "$2" -eq 0 ] || echo "0 $2 linear $ram $a"
      echo "$2 $3 error"
      [ $e -eq "$n" ] || echo "$e $((n - e)) linear $ram $((a + e))"; } > "$tmp/table"
    dmsetup load "bug_$1" "$tmp/table" && dmsetup suspend "bug_$1" && dmsetup resume "bug_$1"
}
put() {  # NAME FIRST COUNT WORD [SECTORS-A-WRITE]: each sector says WORD and its own number
    j=$2; e=$(($2 + $3))
    while [ $j -lt $e ]; do printf "%-511s\n" "$4 $j"; j=$((j + 1)); done > "$tmp/data"
    s=${5:-$3}
    dd if="$tmp/data" of="/dev/mapper/bug_$1" bs=$((s * 512)) seek=$(($2 / s)) conv=notrunc \
        oflag=direct 2>/dev/null
}
look() {  # NAME SECTOR: what stands there, in words
    dd if="/dev/mapper/bug_$1" of="$tmp/sector" bs=512 skip="$2" count=1 iflag=direct 2>/dev/null \
        || { echo "(I/O error)"; return; }
    if [ "$(tr -d '\0' < "$tmp/sector" | wc -c)" -eq 0 ]; then echo "(zeros)"
    elif [ "$(tr -cd '[:print:]' < "$tmp/sector" | wc -c)" -gt 500 ]; then
        sed 's/ *$//' "$tmp/sector"
    else od -An -tx4 -N16 "$tmp/sector"; fi
}
status() { dmsetup status "bug_$1"; }
settle() {  # NAME: wait (10 s at most) until the merge no longer moves
    old=; n=0
    while s=$(status "$1"); [ "$s" != "$old" ] && [ $n -lt 20 ]; do
        old=$s; n=$((n + 1)); sleep 0.5
    done
}
klog() {  # [PATTERN]: what the kernel has logged since the start
    dmesg | tail -n "+$log" | grep -E "${1:-device-mapper}" | grep -v inconsistency \
        | sed 's|^|  kernel: |'
}
clean() {
    for n in 1 2 3 4 5 6; do
        for d in $(dmsetup ls 2>/dev/null | sed -n 's/^\(bug_[a-z0-9]*\).*/\1/p'); do
            dmsetup resume "$d" 2>/dev/null; dmsetup remove "$d" 2>/dev/null
        done
    done
    [ "$ram" = /dev/ram0 ] || losetup -d "$ram"
    rm -rf "$tmp"
}
shown() { echo "DEFECT SHOWN: $*"; exit 0; }
not_shown() { echo "not shown: $*"; exit 1; }
tmp=$(mktemp -d) || exit 2
trap clean EXIT
trap 'exit 2' INT TERM
log=$(($(dmesg | wc -l) + 1))
echo "kernel $(uname -r)"

# ---- the story
