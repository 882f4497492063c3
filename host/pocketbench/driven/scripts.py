"""What a driven device's shell is told: any POSIX sh, with the few programs that Android has too.

Every path is a word of the command line, and nothing that a device says comes back into a script. `workdir` may be a
folder that has other things too: what is removed lies below its folder `driven`, under names that stand here.
"""

from __future__ import annotations

from pocketbench.deploy.probe import WORKDIR

# Who has it, before anything there is touched. {given} is the entry's workdir.
ASK = (
    WORKDIR
    + """
echo "system=$(uname -s)"
printf 'workdir=%s\\n' "$W"
umask 077
mkdir -p "$W/home" "$W/driven/files" "$W/driven/programs" && cd "$W/driven" && [ -O . ] && chmod 700 . &&
  echo "free=$(df -Pk . | tail -n 1)"
[ -f "$W/home/lease.json" ] && printf 'lease=%s\\n' "$(head -n 1 "$W/home/lease.json")"
echo "now=$(date +%s)"
"""
)
# $1 is the work folder. A tool has it in its environment: one that still runs was left by a host and link that died.
TIDY = """
for e in $(grep -lsF "POCKETBENCH_WORKDIR=$1:" /proc/[0-9]*/environ); do
  e=${e#/proc/}
  kill -s KILL "${e%/environ}"
done 2>/dev/null
cd "$1/driven" || exit 1
rm -rf ./scratch
find files programs -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2>/dev/null
true
"""
# $1 a nonce, $2 seconds at most, $3 the work folder, then NAME=VALUE words, `--`, and the command.
# Its output, stderr among it, is stdout; on stderr come the most memory that was seen of it, and its end: each line
# with the nonce, and nothing of the command's. When stdin ends, or the time does, it ends with all that it started.
RUN = """
n=$1 t=$2
cd "$3/driven" && rm -rf ./scratch && mkdir scratch && cd scratch || exit
shift 3
while [ "$1" != -- ]; do export "$1"; shift; done
shift
exec 3<&0 </dev/null
if command -v setsid >/dev/null; then setsid "$@" 2>&1 3<&- & else "$@" 2>&1 3<&- & fi
p=$!
over() { kill -s KILL -- -$p || kill -s KILL $p; } 2>/dev/null
trap 'over; kill -s KILL $w $s; exit 129' HUP INT TERM
( trap - HUP INT TERM; while read -r l; do :; done <&3; over ) >/dev/null 2>&1 & w=$!
look() {
  while read -r k v l; do
    case $k in VmHWM:) [ "$v" -gt $m ] && m=$v ;; State:) [ "$v" != Z ] && on=1 ;; esac
  done <"/proc/$1/status"
  c=; read -r c <"/proc/$1/task/$1/children"
  for c in $c; do look $c; done
} 2>/dev/null
(
  trap - HUP INT TERM; exec 3<&- >/dev/null; i=0 m=0 s=0
  while :; do
    if [ $i -lt 10 ] && sleep 0.1 2>/dev/null; then i=$((i + 1))
    else sleep 1 2>/dev/null || break; s=$((s + 1)); fi
    on= b=$m; look $p
    [ $m -gt $b ] && echo "$n peak $m" >&2
    [ $s -lt $t ] || { over; break; }
    [ -n "$on" ] || kill -0 $p 2>/dev/null || break
  done
) & s=$!
exec 3<&-
wait $p; e=$?
kill -s KILL $w $s 2>/dev/null
kill -s KILL -- -$p 2>/dev/null
echo "$n code $e" >&2
"""
# $1 what stands before each path of the device (mostly nothing), $2 the work folder, $3 the lease up to its time.
# Once what stays the same, then each second what does not, each line as `PATH:TEXT` or `.NAME:TEXT`, and `end`. One
# process a second: all else is done by the shell itself. It ends with stdin.
WATCH = r"""
R=$1 W=$2 o=$3
IFS=
one() {
  for f in "$@"; do
    [ -r "$f" ] || continue
    l=; read -r l <"$f"
    [ -n "$l" ] && echo "${f#"$R"}:$l"
  done
} 2>/dev/null
all() {
  for f in "$@"; do
    [ -r "$f" ] || continue
    i=0
    while { l=; read -r l || [ -n "$l" ]; } && [ $i -lt 400 ]; do echo "${f#"$R"}:$l"; i=$((i + 1)); done <"$f"
  done
} 2>/dev/null
text() {
  for f in "$@"; do
    l=$(tr '\000' ' ' <"$f" | head -n 1)
    [ -n "$l" ] && echo "${f#"$R"}:$l"
  done
} 2>/dev/null
lease() {
  printf '%s%s}\n' "$o" $(($(date +%s) + 90)) >"$W/home/lease.new" && mv "$W/home/lease.new" "$W/home/lease.json"
}
(
  echo ".system:$(uname -s)"
  l=; read -r l <"$R/proc/sys/kernel/hostname"; echo ".node:${l:-$(uname -n)}"
  l=; read -r l <"$R/proc/sys/kernel/osrelease"; echo ".release:${l:-$(uname -r)}"
  echo ".machine:$(uname -m)"
  echo ".df:$(df -Pk "$W" | tail -n 1)"
  for p in vcgencmd dumpsys settings; do
    for d in usr/bin opt/vc/bin bin system/bin usr/local/bin; do
      [ -x "$R/$d/$p" ] && echo ".program.$p:$R/$d/$p" && break
    done
  done
  p=$(command -v taskset) && echo ".program.taskset:$p"
  if [ -f "$R/getprop.txt" ]; then all "$R/getprop.txt"
  elif command -v getprop >/dev/null; then
    for p in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model ro.board.platform \
      ro.build.version.release ro.build.fingerprint ro.serialno ro.kernel.qemu ro.boot.qemu
    do l=$(getprop $p); [ -n "$l" ] && echo "/getprop.txt:[$p]: [$l]"; done
  fi
  one $R/proc/sys/kernel/random/boot_id $R/etc/machine-id $R/sys/class/dmi/id/product_name $R/sys/devices/soc0/machine
  one $R/sys/class/thermal/thermal_zone*/type $R/sys/class/thermal/cooling_device*/type
  text $R/proc/device-tree/model $R/proc/device-tree/compatible
  all $R/etc/os-release $R/proc/cpuinfo $R/proc/meminfo
  n=0
  while :; do
    one $R/proc/stat $R/proc/loadavg $R/sys/class/thermal/thermal_zone*/temp
    one $R/sys/class/thermal/cooling_device*/cur_state
    one $R/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq
    one $R/sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq
    one $R/sys/devices/system/cpu/cpufreq/policy*/scaling_governor
    all $R/sys/devices/system/cpu/cpufreq/policy*/stats/time_in_state
    [ $((n % 30)) -eq 0 ] && lease
    n=$((n + 1))
    echo end
    sleep 1 </dev/null >/dev/null || exit
  done
) 2>/dev/null & w=$!
trap 'kill -s KILL $w; exit' HUP INT TERM
while read -r l; do :; done
kill -s KILL $w
"""
# $1 the work folder, $2 the lease as it is when nobody has the device.
LEAVE = """
cd "$1" && rm -rf ./driven/scratch || exit 1
printf '%s\\n' "$2" >home/lease.new && mv home/lease.new home/lease.json
"""
# $1 the folder, then for each file its name, its sha256 and its size: names of those that are missing or spoilt.
MISSING = """
f=$1; shift
mkdir -p "$f" && touch "$f" || exit 1
while [ $# -gt 0 ]; do
  h=
  if [ -f "$f/$1" ]; then
    if command -v sha256sum >/dev/null; then h=$(sha256sum <"$f/$1"); h=${h%% *}
    elif [ $(($(wc -c <"$f/$1"))) -eq "$3" ]; then h=$2; fi
  fi
  [ "$h" = "$2" ] || echo "$2"
  d=$f/$1
  mkdir -p "${d%/*}"
  shift 3
done
"""
# $1 the work folder, then the names of sets that are needed: all others go. The last line of df.
ROOM = """
cd "$1/driven/files" || exit 1
shift
for d in *; do
  k=
  for n in "$@"; do [ "$n" = "$d" ] && k=1; done
  [ -n "$k" ] || rm -rf "./$d"
done
df -Pk . | tail -n 1
"""
