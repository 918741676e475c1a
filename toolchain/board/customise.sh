#!/bin/sh
# Makes a Debian root folder a virtual board: our files, user `pi`, a kernel without an installation of it, then one ext4 file.
# Called by mmdebstrap on the host, as root of its namespace: customise.sh ROOT WORK DISK_SIZE
# Reads WORK/overlay.tar; leaves WORK/disk.ext4, WORK/vmlinuz, WORK/busybox and WORK/modules.
set -eu
root=$1 work=$2 size=$3
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"

tar --extract --file "$work/overlay.tar" --directory "$root" --numeric-owner --no-overwrite-dir --keep-directory-symlink
chroot "$root" useradd --uid 1000 --create-home --shell /bin/bash pi

kernel=$(apt-cache depends linux-image-cloud-arm64 | sed -n 's/^ *Depends: \(linux-image-[0-9][^:]*\).*$/\1/p' | head -n 1)
(cd "$work" && apt-get download "$kernel")
dpkg-deb --extract "$work/$kernel"_*.deb "$work/kernel"
cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
modules=$(find "$work/kernel" -path '*/lib/modules/*' -prune -print)
mkdir -p "$root/usr/lib/modules"
cp -a "$modules" "$root/usr/lib/modules/"
chroot "$root" depmod "${modules##*/}"
cp -a "$root/usr/lib/modules/${modules##*/}" "$work/modules"
cp "$root/bin/busybox" "$work/busybox"

# The configuration that keeps apt away from this computer's own stays until the end.
find "$root/var/lib/apt/lists" "$root/var/cache/apt" -mindepth 1 -delete
find "$root/tmp" -mindepth 1 ! -path "$APT_CONFIG" -delete
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/resolv.conf

# mmdebstrap has /proc, /sys and /dev mounted in there: a bind mount of the root folder alone leaves them out.
mkdir "$work/plain"
mount --bind "$root" "$work/plain"
mke2fs -q -t ext4 -L board -E lazy_itable_init=0,nodiscard -d "$work/plain" "$work/disk.ext4" "$size"
umount "$work/plain"
