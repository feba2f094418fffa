# What mmdebstrap does by itself, for hosts that have only debootstrap.
set -euo pipefail
target=$1 keyring=$2 suite=$3 address=$4 packages=$5 settings=$6 sources=$7
debootstrap --variant=minbase --keyring="$keyring" ${packages:+--include="$packages"} "$suite" "$target" "$address"
cp "$sources" "$target/etc/apt/sources.list"
cp "$settings" "$target/etc/apt/apt.conf.d/99build"
cp -L /etc/resolv.conf "$target/etc/resolv.conf"
mount -t proc proc "$target/proc"
export DEBIAN_FRONTEND=noninteractive
chroot "$target" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin apt-get update
chroot "$target" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin apt-get dist-upgrade --yes --no-install-recommends
chroot "$target" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin apt-get clean
umount "$target/proc"
rm -rf "$target"/usr/share/man/* "$target"/usr/share/locale/*
find "$target/usr/share/doc" -type f ! -name copyright -delete
find "$target/usr/share/doc" -xtype l -delete
find "$target/usr/share/doc" -type d -empty -delete
