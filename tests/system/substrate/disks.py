"""Disk images: a root that boots with our module in it, and a folder to hand over."""

from __future__ import annotations

from pathlib import Path

from tests.system.substrate import host, roots

ROOT_SIZE = "2500M"

# A cached root is not changed: what a machine needs besides is laid over it for as long as the image is being made.
ROOT = """
root=$1 kernel=$2 module=$3 key=$4 image=$5 size=$6
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/root
mount -t overlay -o "lowerdir=$root,upperdir=/run/upper,workdir=/run/work" overlay /run/root
cd /run/root
echo board > etc/hostname
printf '127.0.0.1 localhost\\n::1 localhost\\n127.0.1.1 board\\n' > etc/hosts
echo '/dev/vda / ext4 rw,noatime 0 1' > etc/fstab
mkdir -p etc/systemd/network root/.ssh
printf '[Match]\\nName=en*\\n[Network]\\nDHCP=yes\\n' > etc/systemd/network/80-wire.network
mkdir -p etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/systemd-networkd.service etc/systemd/system/multi-user.target.wants/
# Without one it is a first boot, whose presets would enable and start what Debian does not.
echo 0123456789abcdef0123456789abcdef > etc/machine-id
install -m 600 "$key.pub" root/.ssh/authorized_keys
rm -f etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f etc/ssh/ssh_host_ed25519_key
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \\
  fstrim.timer systemd-networkd-wait-online.service; do ln -sf /dev/null "etc/systemd/system/$unit"; done
# Every look at units starts all of these, which costs an emulated processor seconds; the board has nothing for them.
mkdir -p etc/systemd/system-generators
for name in bless-boot cryptsetup debug gpt-auto hibernate-resume integritysetup rc-local run ssh system-update sysv \\
  tpm2 veritysetup; do ln -sf /dev/null "etc/systemd/system-generators/systemd-$name-generator"; done
if [ -n "$module" ]; then
  install -D -m 644 "$module" "usr/lib/modules/$kernel/updates/rknpu.ko"
  depmod -b . "$kernel"
fi
mke2fs -q -F -t ext4 -E lazy_itable_init=1,root_owner=0:0 -d . "$image" "$size"
"""


def root(arm64: Path, module: Path | None, key: Path, image: Path) -> Path:
    host.in_own_mounts(ROOT, arm64, roots.kernel(arm64), module or "", key, image, ROOT_SIZE)
    return image


def folder(content: Path, image: Path) -> Path:
    host.run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", content, image, "64M"
    )
    return image


def key(to: Path) -> Path:
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", to)
    return to
