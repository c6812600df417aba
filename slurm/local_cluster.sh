#!/usr/bin/env bash
# A SLURM cluster on this machine, for tests and for trying things out: two nodes with two stand-in GPUs each, a
# partition `gpu` whose jobs are requeued when `high` needs their place. Needs the Debian packages slurmctld, slurmd and
# slurm-client (together: slurm-wlm), and root.
#
#   slurm/local_cluster.sh start [DIR]    prints the line that points SLURM's commands at it
#   slurm/local_cluster.sh status [DIR]
#   slurm/local_cluster.sh stop [DIR]
#
# DIR holds everything (default: /tmp/spurbench-slurm). MAX_ARRAY_SIZE=11 makes a cluster with small arrays.
set -euo pipefail

verb=${1:-help}
dir=${2:-/tmp/spurbench-slurm}
export SLURM_CONF=$dir/slurm.conf
host=$(hostname -s)

die() { echo "local_cluster: $1" >&2; exit 2; }

configure() {
  local memory cores=2 port=17000
  while in_use $port || in_use $((port + 1)) || in_use $((port + 2)); do # another such cluster runs
    port=$((port + 10))
  done
  memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10 / 2))
  mkdir -p "$dir"/{state,log,spool/n1,spool/n2}
  cat > "$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=5,sched_interval=5
MaxArraySize=${MAX_ARRAY_SIZE:-1001}
KillWait=5
GresTypes=gpu
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=$cores RealMemory=$memory Gres=gpu:2 State=UNKNOWN
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  echo "NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero" > "$dir/gres.conf"
}

in_use() { (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

start() {
  command -v slurmctld > /dev/null || die "no slurmctld here: apt-get install slurm-wlm"
  [ "$(id -u)" = 0 ] || die "the daemons start other users' jobs, so this needs root"
  up && die "a cluster runs in $dir already: $0 stop $dir"
  configure
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 100); do
    [ "$(sinfo --noheader --format %t --partition gpu 2> /dev/null)" = idle ] && break
    sleep 0.1
  done
  up || die "it did not come up: see $dir/log"
  echo "export SLURM_CONF=$SLURM_CONF"
}

up() { [ -f "$SLURM_CONF" ] && [ "$(sinfo --noheader --format %T --partition gpu 2> /dev/null | head -1)" != "" ]; }

stop() {
  [ -f "$SLURM_CONF" ] || die "no cluster in $dir"
  scancel --user root 2> /dev/null || true
  for _ in $(seq 100); do # tasks have KillWait to save their state
    [ "$(squeue --noheader 2> /dev/null)" = "" ] && break
    sleep 0.1
  done
  for file in "$dir"/slurmd-*.pid "$dir/slurmctld.pid"; do
    [ -f "$file" ] && kill "$(cat "$file")" 2> /dev/null || true
  done
  for _ in $(seq 100); do
    pgrep --full "slurm.*$dir" > /dev/null || [ -n "$(ls "$dir"/*.pid 2> /dev/null)" ] || break
    sleep 0.1
  done
  rm -rf "$dir"
}

case $verb in
  start) start ;;
  stop) stop ;;
  status) up || die "no cluster runs in $dir"; sinfo; squeue ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; [ "$verb" = help ] ;;
esac
