#!/usr/bin/env bash
# A real Slurm of one node, made of Debian's packages, and what a cluster is used for: a job of two
# tasks, a sweep by submitit, and how one step scales over processes.
#
#     sudo scripts/check_cluster.sh              with .venv/bin/python of this folder
#     sudo PYTHON=/path/to/python scripts/check_cluster.sh
#
# Installs slurmd, slurmctld, slurm-client and munge with apt where they are missing. Configuration,
# keys, logs and runs lie in a temporary folder; its daemons end with the script.
set -euo pipefail

cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
export OMP_NUM_THREADS=1
CPUS=$(getconf _NPROCESSORS_ONLN)

say() { printf '\n== %s\n' "$*"; }
stop() { echo "check_cluster: $*" >&2; exit 2; }

[ "$(id -u)" = 0 ] || stop "Slurm's daemons need root here: run it by sudo, or in a container."
"$PYTHON" -c 'import emgen' 2>/dev/null || stop "$PYTHON cannot import emgen: set PYTHON=..."
[ "$CPUS" -ge 2 ] || stop "there is one processor here, and a job of two tasks needs two."

if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
    command -v apt-get >/dev/null || stop "slurmd, slurmctld and munge are missing, and so is apt-get."
    say "installing slurmd, slurmctld, slurm-client and munge"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        slurmd slurmctld slurm-client munge >/dev/null
fi


# ---- a cluster of one node ------------------------------------------------------------------------

PLACE=$(mktemp -d)
chmod 755 "$PLACE"
mkdir "$PLACE"/{state,spool,runs}
export SLURM_CONF=$PLACE/slurm.conf

close() {
    scancel --user root 2>/dev/null || true
    for daemon in slurmd slurmctld munged; do
        [ -f "$PLACE/$daemon.pid" ] || continue
        pid=$(cat "$PLACE/$daemon.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do [ -d "/proc/$pid" ] && sleep 0.2 || break; done
    done
    [ "${KEEP:-}" ] && echo "logs and runs are in $PLACE" || rm -rf "$PLACE"
}
trap close EXIT

say "starting munge and Slurm on $(hostname -s), $CPUS processors"
dd if=/dev/urandom of="$PLACE/munge.key" bs=128 count=1 status=none
chmod 400 "$PLACE/munge.key"
munged --force --key-file="$PLACE/munge.key" --socket="$PLACE/munge.socket" \
    --pid-file="$PLACE/munged.pid" --log-file="$PLACE/munged.log" --seed-file="$PLACE/munge.seed"

cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$PLACE/munge.socket
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPidFile=$PLACE/slurmctld.pid
SlurmdPidFile=$PLACE/slurmd.pid
SlurmctldLogFile=$PLACE/slurmctld.log
SlurmdLogFile=$PLACE/slurmd.log
SlurmdSpoolDir=$PLACE/spool
StateSaveLocation=$PLACE/state
SlurmctldPort=16817
SlurmdPort=16818
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$CPUS State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
# without a systemd to ask, and with no more of cgroups than that Slurm wants a plugin
printf "CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n" >"$PLACE/cgroup.conf"

slurmctld -c
slurmd -c || { tail "$PLACE"/slurmd.log >&2; stop "slurmd did not start."; }
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && break
    sleep 0.5
done
sinfo | tail -1 | grep -q idle || { tail "$PLACE"/*.log >&2; stop "the node did not come up."; }
sinfo


# ---- what it is used for --------------------------------------------------------------------------

say "a job of two tasks: EM, then the same by one process"
srun --nodes=1 --ntasks-per-node=2 --kill-on-bad-exit \
    "$PYTHON" -m emgen trainer=em model=gaussian_mixture data=old_faithful data.batch_size=50 \
    data.dtype=float64 paths.run_dir="$PLACE/runs/two"
"$PYTHON" -m emgen trainer=em model=gaussian_mixture data=old_faithful data.batch_size=50 \
    data.dtype=float64 paths.run_dir="$PLACE/runs/one"
"$PYTHON" - "$PLACE/runs" <<'CODE'
import json, sys
one, two = (json.load(open(f"{sys.argv[1]}/{run}/summary.json")) for run in ("one", "two"))
apart = abs(one["metrics"]["train/elbo"] - two["metrics"]["train/elbo"])
print(f"the two bounds are {apart:.1e} nats apart")
assert apart < 1e-12 and one["epochs"] == two["epochs"]
CODE

say "a job whose second task dies: the run ends, with a message and a code that is not 0"
cat >"$PLACE/dies.py" <<'CODE'
import pytorch_lightning

class Dies(pytorch_lightning.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            raise FloatingPointError("the sky of this rank has fallen")
CODE
code=0
PYTHONPATH=$PLACE srun --nodes=1 --ntasks-per-node=2 --kill-on-bad-exit \
    "$PYTHON" -m emgen trainer=vae model=dense data=digits lightning.max_epochs=3 \
    +callbacks.dies._target_=dies.Dies paths.run_dir="$PLACE/runs/dead" || code=$?
[ "$code" != 0 ] || stop "the run with a dead task ended as if nothing had happened."

if "$PYTHON" -c 'import hydra_plugins.hydra_submitit_launcher' 2>/dev/null; then
    say "a sweep by submitit: one job each for three trainers"
    "$PYTHON" -m emgen -m hydra/launcher=submitit_slurm hydra.launcher.timeout_min=10 \
        hydra.launcher.submitit_folder="$PLACE/submitit/%j" \
        trainer=em,vbem,gibbs model=gaussian_mixture data=old_faithful \
        lightning.max_epochs=5 paths.sweep_dir="$PLACE/runs/sweep" \
        >"$PLACE/sweep.log" 2>&1 || { cat "$PLACE/sweep.log" >&2; stop "the sweep failed."; }
    finished=$(grep -l '"finished"' "$PLACE"/runs/sweep/*/*/status.json | wc -l)
    echo "$finished of 3 runs have finished"
    [ "$finished" = 3 ] || stop "a sweep of three left $finished finished runs."
else
    say "no sweep: pip install 'emgen[sweep]' brings Hydra's submitit launcher"
fi

say "one step over processes: examples a second, the batch of 1024 shared among them"
for tasks in 1 2 4 8; do
    [ "$tasks" -le "$CPUS" ] || break
    for trainer in vae em; do
        [ "$trainer" = vae ] && model=dense || model=bernoulli_mixture
        srun --nodes=1 --ntasks-per-node="$tasks" --kill-on-bad-exit \
            "$PYTHON" -m emgen trainer="$trainer" model="$model" data=digits \
            data.batch_size=1024 data.binarise=fixed lightning.max_epochs=60 \
            evaluation.samples=1 evaluation.rows=1 callbacks.metrics.every_n_epochs=60 \
            callbacks.figures=null callbacks.progress=null callbacks.checkpoint=null '~logger' \
            paths.run_dir="$PLACE/runs/$trainer-$tasks" >/dev/null
        "$PYTHON" - "$PLACE/runs/$trainer-$tasks" "$trainer" "$tasks" <<'CODE'
import json, sys
run, trainer, tasks = sys.argv[1:]
speed = json.load(open(f"{run}/summary.json"))["examples_per_second"]
print(f"{trainer:<4} {tasks} processes {speed:12,.0f} examples/s")
CODE
    done
done
say "all is well"
