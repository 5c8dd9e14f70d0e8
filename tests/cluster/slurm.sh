#!/usr/bin/env bash
# A real SLURM on this host, for tests: one slurmctld and several slurmd, without munge, systemd, cgroups or accounting.
#
#   slurm.sh up DIR [NODES]     start; then `. DIR/env.sh` finds it
#   slurm.sh node DIR NAME      start one node's slurmd (again)
#   slurm.sh down DIR           stop everything
#
# Everything it writes lies below DIR. Each node claims one core, and so takes one job at a time, and two GPUs, which are device
# files of no consequence. Works as root or as any other user, whose jobs then run as that user.
set -euo pipefail
command=$1
mkdir -p "$2"
dir=$(realpath "$2")
PATH=$PATH:/usr/sbin:/sbin # where Debian puts the daemons

start_node() { slurmd -f "$dir/slurm.conf" -N "$1"; }

stop() { # by the ids in the pid files, all at once; waits, so that the ports and the folder are free afterwards
    local pids
    pids=$(cat "$dir"/*.pid 2>/dev/null || true)
    [ -n "$pids" ] || return 0
    kill $pids 2>/dev/null || true
    for _ in $(seq 20); do kill -0 $pids 2>/dev/null || return 0; sleep 0.1; done
    kill -9 $pids 2>/dev/null || true
}

configure() {
    local nodes=$1 host port
    host=$(hostname -s)
    # As many free ports as there are daemons, from one on; asked of the kernel, so that two clusters may run beside each other.
    port=$(python3 - "$nodes" <<'PYTHON'
import random, socket, sys
while True:
    first, held = random.randrange(20000, 30000), []
    try:
        for offset in range(int(sys.argv[1]) + 1):
            held.append(socket.socket())
            held[-1].bind(("127.0.0.1", first + offset))
        break
    except OSError:
        continue
print(first)
PYTHON
    )
    mkdir -p "$dir"/{state,log,bin}
    for index in $(seq "$nodes"); do mkdir -p "$dir/spool.n$index"; done
    cat > "$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
AuthInfo=cred_expire=10
CredType=cred/none
SlurmctldPort=$port
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
GresTypes=gpu
MinJobAge=600
KillWait=5
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=1 RealMemory=16000 Gres=gpu:fake:2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=1-0 PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL MaxTime=1-0 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
CONF
    echo "NodeName=n[1-$nodes] Name=gpu Type=fake File=/dev/null,/dev/zero" > "$dir/gres.conf"
    # The job step plugin takes SLURM_CONF out of the inner srun's environment; a cluster has its file in /etc/slurm.
    printf '#!/bin/sh\nSLURM_CONF="%s" exec %s "$@"\n' "$dir/slurm.conf" "$(command -v srun)" > "$dir/bin/srun"
    chmod +x "$dir/bin/srun"
    printf 'export SLURM_CONF="%s"\nexport PATH="%s:$PATH:/usr/sbin"\n' "$dir/slurm.conf" "$dir/bin" > "$dir/env.sh"
}

case $command in
up)
    nodes=${3:-2}
    configure "$nodes"
    . "$dir/env.sh"
    slurmctld
    for index in $(seq "$nodes"); do start_node "n$index"; done
    for _ in $(seq 150); do
        [ "$(sinfo -h -N -p gpu -o %T 2>/dev/null | grep -c idle)" -ge "$nodes" ] && exit 0
        sleep 0.1
    done
    echo "slurm.sh: the nodes do not come up; the logs are in $dir/log" >&2
    sinfo -N -o "%N %T %E" >&2 || true
    exit 1
    ;;
node) . "$dir/env.sh"; start_node "$3" ;;
down) stop ;;
*) echo "slurm.sh: unknown command $command" >&2; exit 2 ;;
esac
