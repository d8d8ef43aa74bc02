#!/usr/bin/env bash
# A real SLURM of eight nodes that all are this machine, from Debian's packages, as root and without systemd.
# Usage: start.sh start | stop | node NAME   (node: start the daemon of a node again that was lost)
# Exit status 3: it cannot be started here, and the last line says why.
set -euo pipefail
BASE=${SLURM_BASE:-/tmp/expert-tail-slurm} MUNGE_PID=/run/munge/munged.pid
NODES=(node{1..8})
unset SLURM_CONF # jobs do not inherit it: only /etc/slurm/slurm.conf reaches them

cannot() {
  echo "SLURM cannot be started: $*" >&2
  exit 3
}

alive() { # NAME PIDFILE
  [[ -s $2 && $(cat "/proc/$(cat "$2")/comm" 2>/dev/null) == "$1"* ]]
}

end() { # NAME PIDFILE; daemons remove their pid file before they exit
  local pid
  alive "$@" || return 0
  pid=$(cat "$2")
  kill "$pid"
  for _ in {1..100}; do
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$1"* ]] || return 0
    sleep .1
  done
}

stop() {
  if alive slurmctld "$BASE/slurmctld.pid"; then # jobs outlive the daemons
    squeue -h -o %A | sort -u | xargs -r scancel || true
    for _ in {1..60}; do
      [[ -z $(squeue -h 2>/dev/null) ]] && break
      sleep .5
    done
  fi
  for node in "${NODES[@]}"; do end slurmd "$BASE/$node.pid" & done
  wait
  end slurmctld "$BASE/slurmctld.pid"
  end munged $MUNGE_PID
  [[ $(readlink /etc/slurm/slurm.conf 2>/dev/null) != "$BASE/slurm.conf" ]] || rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
}

install_packages() {
  local commands=(munged slurmctld slurmd sbatch squeue scontrol)
  command -v "${commands[@]}" >/dev/null 2>&1 && (($(command -v "${commands[@]}" | wc -l) == ${#commands[@]})) && return
  command -v apt-get >/dev/null || cannot "no slurmctld, slurmd and munged, and no apt-get to install them with"
  mkdir -p "$BASE/log"
  {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
  } </dev/null >"$BASE/log/apt.log" 2>&1 || cannot "its packages could not be installed: $(tail -n 1 "$BASE/log/apt.log")"
}

configure() {
  mkdir -p "$BASE"/{state,spool,log} /etc/slurm
  # TimeLimit is enforced by the controller, memory by adding up what a job's processes hold every 2 s (no cgroups, which
  # a container may not give). A node is lost 15 s after its daemon was last heard of.
  cat >"$BASE/slurm.conf" <<CONF
ClusterName=onemachine
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool/%n
SlurmctldPidFile=$BASE/slurmctld.pid
SlurmdPidFile=$BASE/%n.pid
SlurmctldLogFile=$BASE/log/slurmctld.log
SlurmdLogFile=$BASE/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SlurmdTimeout=15
ReturnToService=2
EnforcePartLimits=ALL
MinJobAge=3600
KillWait=5
GresTypes=gpu
CONF
  local port=17100
  for node in "${NODES[@]}"; do
    [[ -e $BASE/$node.gpu ]] || mknod "$BASE/$node.gpu" c 1 3 # a GPU in name only: /dev/null's numbers
    echo "NodeName=$node NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((++port)) CPUs=4 RealMemory=32000 Gres=gpu:1"
  done >>"$BASE/slurm.conf"
  cat >>"$BASE/slurm.conf" <<CONF
PartitionName=main Nodes=node[1-6] Default=YES MaxTime=INFINITE State=UP
PartitionName=failing Nodes=node[7-8] MaxTime=INFINITE State=UP
CONF
  for node in "${NODES[@]}"; do echo "NodeName=$node Name=gpu File=$BASE/$node.gpu"; done >"$BASE/gres.conf"
  ln -sf "$BASE/slurm.conf" "$BASE/gres.conf" /etc/slurm/
}

start_node() {
  alive slurmd "$BASE/$1.pid" || slurmd -N "$1"
}

start() {
  ((UID == 0)) || cannot "its daemons need root"
  [[ ! -e /etc/slurm/slurm.conf || $(readlink -f /etc/slurm/slurm.conf) == "$BASE/slurm.conf" ]] ||
    cannot "/etc/slurm/slurm.conf is another SLURM's"
  install_packages
  configure
  install -d -o munge -g munge -m 755 /run/munge
  alive munged $MUNGE_PID || runuser -u munge -- munged
  alive slurmctld "$BASE/slurmctld.pid" || slurmctld -c # no job of an earlier one
  for node in "${NODES[@]}"; do start_node "$node"; done
  for _ in {1..120}; do
    (($(sinfo -h -N -t idle,mixed,allocated -o %N 2>/dev/null | sort -u | wc -l) == ${#NODES[@]})) && return
    sleep .5
  done
  sinfo -R >&2 || true
  cannot "its nodes did not come up; see $BASE/log"
}

case ${1:-} in
start) start ;;
stop) stop ;;
node) start_node "$2" ;;
*)
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
  ;;
esac
