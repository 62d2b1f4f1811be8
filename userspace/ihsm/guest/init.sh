#!/bin/sh
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# First process of a guest: mounts the host's tree, loads modules, runs the command, reports over virtio ports.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

for module in /ihsm/boot/*.ko; do
  [ -e "$module" ] || break
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
exec 9<>"$node"
fail() {
  echo "failed $1" >&9
  sync
  # The host ends QEMU when it has heard it.
  sleep 60
  poweroff -f
}
# A write for each line, between which those of others may stand.
say_lines() {
  while IFS= read -r line; do echo "$1 $line" >&9; done
}
log_mark() {
  echo "<7>ihsm: $1" >/dev/kmsg
}

# The kernel's log, whole: where records were lost, reading ends and begins again, and each has its number.
port ihsm.log
(while :; do
  dd if=/dev/kmsg bs=8192 2>/dev/null
  sleep 0.05
done >"$node") &

# The host's tree is read-only; what the guest writes stays in its memory.
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$options,ro,cache=$(cat /ihsm/cache)" ihsm.root /low || fail root
mount -t tmpfs -o size=50% ram /ram
mkdir /ram/upper /ram/work
# Images of what Python programs need, by the serial numbers of their disks; a later one lies over those before it.
lower=/low
image() {
  for disk in /sys/block/vd*; do
    if [ "$(cat "$disk/serial" 2>/dev/null)" = "$1" ]; then
      mkdir -p "/images/$1"
      if mount -t erofs -o ro "/dev/${disk##*/}" "/images/$1"; then
        lower="/images/$1:$lower"
      else
        echo "ihsm: $1 cannot be mounted" >/dev/console
      fi
    fi
  done
}
image ihsm.python
image ihsm.project
mount -t overlay -o "lowerdir=$lower,upperdir=/ram/upper,workdir=/ram/work" overlay /host || fail root
for name in proc sys dev run dev/pts dev/shm sys/kernel/debug; do
  case $name in
    proc) type=proc ;;
    sys) type=sysfs ;;
    dev) type=devtmpfs ;;
    dev/pts) type=devpts ;;
    sys/kernel/debug) type=debugfs ;;
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
if [ "$(cat /ihsm/mode)" = kept ] || [ -e /ihsm/sections ]; then
  mount -t 9p -o "$options" ihsm.runs /runs || fail runs
fi

# What makes the kernel say more, where it can: each stays as it is where there is no such file.
set_up() {
  if [ -e "$1" ]; then echo "$2" >"$1" 2>/dev/null; fi
}
debug=/host/sys/kernel/debug
set_up /proc/sys/kernel/hung_task_timeout_secs 20
set_up /proc/sys/kernel/hung_task_warnings -1
set_up $debug/dma-api/all_errors 1
set_up $debug/kmemleak scan=off

# Sign of life, so that the host can tell a hung guest from a long command.
(while sleep 2; do echo alive >&9; done) &

# A file that is another on the host than in an image.
freshen() {
  mkdir -p "/host${1%/*}"
  if [ -e "/low$1" ] || [ -L "/low$1" ]; then
    cp -dp "/low$1" "/host$1"
  else
    rm -f "/host$1"
  fi
}

# What the host asks for meanwhile.
mkfifo /ihsm/asked
(while read -r word rest; do
  case $word in
    run) echo "$rest" >/ihsm/asked ;;
    fresh) freshen "$rest" 2>/dev/null ;;
    size) stty -F /dev/hvc0 rows "${rest% *}" cols "${rest#* }" ;;
    blocked)
      echo w >/proc/sysrq-trigger
      log_mark blocked
      ;;
  esac
done <&9) &

loaded=
load() {
  for module in "$1"/modules/*.ko; do
    [ -e "$module" ] || break
    file=$(cat "${module%.ko}.name")
    name=$(cat "${module%.ko}.module")
    # A dependency that is there from an earlier run.
    if [ -e "/sys/module/$name/initstate" ]; then continue; fi
    lines=$(dmesg | wc -l)
    # Parameters are words for insmod.
    # shellcheck disable=SC2046
    if ! insmod "$module" $(cat "${module%.ko}.parameters") >/ihsm/insmod.log 2>&1; then
      sed "s,$module,$file," /ihsm/insmod.log | say_lines text
      dmesg | tail -n +$((lines + 1)) | say_lines text
      echo "failed module $file" >&9
      return 1
    fi
    if [ -e "${module%.ko}.tested" ]; then
      loaded="$name $loaded"
      if [ -e /ihsm/sections ]; then
        for section in "/sys/module/$name/sections"/* "/sys/module/$name/sections"/.*; do
          [ -f "$section" ] && echo "section $name ${section##*/} $(cat "$section")" >&9
        done
      fi
    fi
  done
}
unload() {
  for name in $loaded; do
    if ! rmmod "$name" >/ihsm/insmod.log 2>&1; then
      say_lines text </ihsm/insmod.log
      echo "failed unload $name" >&9
      return 1
    fi
  done
  loaded=
}
# Objects that a module under test has lost. The kernel takes nothing for lost that is younger than five seconds, or
# that changed since the scan before. A scan may take a minute: too long for whoever waits for the next run.
leaks() {
  if [ -e $debug/kmemleak ] && [ -n "$loaded" ] && [ "$(cat /ihsm/mode)" = exec ]; then
    sleep 5
    echo scan >$debug/kmemleak
    echo scan >$debug/kmemleak
    sed -n 1,400p $debug/kmemleak | say_lines leak
    echo clear >$debug/kmemleak
  fi
}
# One run: the modules and the command of a folder.
perform() {
  set_up $debug/clear_warn_once 1
  log_mark "begin ${1##*/}"
  echo "taint $(cat /proc/sys/kernel/tainted)" >&9
  status=1
  if unload && load "$1"; then
    cat "$1/command" >/host/run/ihsm/command
    if [ -e /ihsm/sections ]; then cat /proc/kallsyms >/runs/kallsyms; fi
    echo ready >&9
    if [ "$(cat /ihsm/mode)" = interactive ]; then
      setsid -c chroot /host /bin/sh /run/ihsm/command </dev/hvc0 >/dev/hvc0 2>&1 4>&- 9>&-
    else
      chroot /host /bin/sh /run/ihsm/command <&6 >&7 2>&8 6<&- 7>&- 8>&- 9>&-
    fi
    status=$?
  fi
  sync
  if [ "$(cat /ihsm/mode)" != interactive ]; then
    cat /ihsm/end >&7
    cat /ihsm/end >&8
  fi
  log_mark "end ${1##*/}"
  echo "taint $(cat /proc/sys/kernel/tainted)" >&9
  echo "exit $status" >&9
  leaks
  echo examined >&9
}

case $(cat /ihsm/mode) in
  interactive)
    # Held open, for a terminal that nobody has open forgets its size.
    exec 4<>/dev/hvc0
    stty -F /dev/hvc0 rows "$(cat /ihsm/rows)" cols "$(cat /ihsm/columns)"
    ;;
  kept) exec 6</dev/null ;;
  *)
    port ihsm.stdin
    exec 6<"$node"
    ;;
esac
if [ "$(cat /ihsm/mode)" != interactive ]; then
  port ihsm.stdout
  exec 7>"$node"
  port ihsm.stderr
  exec 8>"$node"
fi
perform /ihsm
if [ "$(cat /ihsm/mode)" = kept ]; then
  exec 5<>/ihsm/asked
  while read -r number <&5; do perform "/runs/$number"; done
fi
# The host ends QEMU when it has everything.
sleep 60
poweroff -f
