#!/bin/sh
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# First process of a guest: mounts the host's tree, loads modules, runs the command, reports over virtio ports.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

for module in /ihsm/boot/*.ko; do
  insmod "$module" || echo "ihsm: $module does not load" >/dev/console
done

# Virtio ports appear some time after their driver is there.
port() {
  tries=0
  while [ $tries -lt 200 ]; do
    for folder in /sys/class/virtio-ports/*; do
      if [ "$(cat "$folder/name" 2>/dev/null)" = "$1" ]; then
        node=/dev/${folder##*/}
        return 0
      fi
    done
    sleep 0.05
    tries=$((tries + 1))
  done
  echo "ihsm: no virtio port $1" >/dev/console
  poweroff -f
}

port ihsm.control
exec 9>"$node"
fail() {
  echo "failed $1" >&9
  sync
  poweroff -f
}
say_lines() {
  while IFS= read -r line; do echo "text $line" >&9; done
}

# The host's tree is read-only; what the guest writes stays in its memory.
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$options,ro,cache=$(cat /ihsm/cache)" ihsm.root /low || fail root
mount -t tmpfs -o size=50% ram /ram
mkdir /ram/upper /ram/work
mount -t overlay -o lowerdir=/low,upperdir=/ram/upper,workdir=/ram/work overlay /host || fail root
for name in proc sys dev run dev/pts dev/shm; do
  case $name in
    proc) type=proc ;;
    sys) type=sysfs ;;
    dev) type=devtmpfs ;;
    dev/pts) type=devpts ;;
    *) type=tmpfs ;;
  esac
  mkdir -p "/host/$name"
  mount -t $type $type "/host/$name"
done
ln -sf pts/ptmx /host/dev/ptmx
while read -r tag path; do
  mkdir -p "/host$path"
  mount -t 9p -o "$options" "ihsm.$tag" "/host$path" || fail "share $path"
done </ihsm/shares
modules=$(cat /ihsm/kernel-modules)
if [ -n "$modules" ]; then
  mkdir -p /host/lib/modules
  mount -o bind "/host$modules" /host/lib/modules
fi
mkdir -p /host/run/ihsm /host/run/user
cat /ihsm/command >/host/run/ihsm/command

# Sign of life, so that the host can tell a hung guest from a long command.
(while sleep 2; do echo alive >&9; done) &

for module in /ihsm/modules/*.ko; do
  [ -e "$module" ] || break
  name=$(cat "${module%.ko}.name")
  lines=$(dmesg | wc -l)
  # Parameters are words for insmod.
  # shellcheck disable=SC2046
  if ! insmod "$module" $(cat "${module%.ko}.parameters") >/ihsm/insmod.log 2>&1; then
    sed "s,$module,$name," /ihsm/insmod.log | say_lines
    dmesg | tail -n +$((lines + 1)) | say_lines
    fail "module $name"
  fi
done

if [ "$(cat /ihsm/mode)" = interactive ]; then
  echo ready >&9
  setsid -c chroot /host /bin/sh /run/ihsm/command </dev/hvc0 >/dev/hvc0 2>&1
  status=$?
else
  port ihsm.stdin
  exec 6<"$node"
  port ihsm.stdout
  exec 7>"$node"
  port ihsm.stderr
  exec 8>"$node"
  echo ready >&9
  chroot /host /bin/sh /run/ihsm/command <&6 >&7 2>&8 6<&- 7>&- 8>&- 9>&-
  status=$?
fi
sync
if [ "$(cat /ihsm/mode)" = exec ]; then
  cat /ihsm/end >&7
  cat /ihsm/end >&8
fi
echo "exit $status" >&9
# The host ends QEMU when it has everything.
sleep 60
poweroff -f
