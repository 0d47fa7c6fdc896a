#!/bin/bash
# A study on machines of a Slurm cluster: `sbatch cluster/slurm.sh --space paper --data mvtec
# --data-root /shared/mvtec_ad`, from the repository's folder, on a file system that all machines see.
# What stands behind the script's name are the flags of study/run.py. The same line again goes on
# where the job was ended; a job that its time limit ends is queued again by itself.
#
# Once: `make setup` in the repository, `(umask 077; .venv/bin/ray get-auth-token --generate)`, and
# ~/.ffcad/environment as for the other ways, with FFCAD_STORAGE on the shared file system. With
# FFCAD_DATA the data sets below it are copied to each machine's FFCAD_LOCAL/data (default
# /tmp/ffcad-$USER/data) first, and --data-root is below that.
# The first machine has the head and the driver, and its GPUs work like those of the others.
#SBATCH --job-name=ffcad-study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ffcad-%j.log
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
export PATH=$PWD/.venv/bin:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
[ ! -f ~/.ffcad/environment ] || . ~/.ffcad/environment
[ -s ~/.ray/auth_token ] || { echo "run .venv/bin/ray get-auth-token --generate first" >&2; exit 2; }
# A machine that falls silent counts as lost after some 17 s instead of 68 s.
export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=5

# Ports of the head by the job's number, because two jobs may share a machine: below those that Linux
# gives to connections, and above those that Ray would take for workers. Its other ports are any
# free ones.
port=$((20000 + SLURM_JOB_ID % 4000 * 3))
any_ports="--min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0"
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | cut -d ' ' -f 1)
export RAY_ADDRESS=$address:$port
# Each machine's own disk, for decoded images and, with FFCAD_DATA, the data sets.
export FFCAD_LOCAL=${FFCAD_LOCAL:-/tmp/ffcad-$USER}
export FFCAD_CACHE=$FFCAD_LOCAL/decoded
# Since Slurm 22.05 `srun` does not take it from the job.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
resources="--num-cpus=$SLURM_CPUS_PER_TASK --num-gpus=${SLURM_GPUS_ON_NODE:-0}"
# However long that takes; then Ray has its time to start.
[ -z "${FFCAD_DATA:-}" ] || srun --nodes="${#machines[@]}" --ntasks="${#machines[@]}" \
    bash -c 'python -m study.staging "$FFCAD_DATA" "$FFCAD_LOCAL/data"'
# What each machine does; its arguments are those of `ray start`.
start='until test "$1" = --head || ray health-check --address=$RAY_ADDRESS; do sleep 2; done
    exec env -u RAY_ADDRESS ray start --block --object-store-memory=500000000 "$@"'

# shellcheck disable=SC2086
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash -c "$start" bash --head \
    --port=$port --ray-client-server-port=$((port + 1)) --dashboard-port=$((port + 2)) \
    --node-ip-address="$address" --include-dashboard=false \
    --temp-dir="/tmp/ffcad-ray-$SLURM_JOB_ID" $any_ports $resources &
others=$((${#machines[@]} - 1))
if [ $others -gt 0 ]; then
    # shellcheck disable=SC2086
    srun --overlap --nodes=$others --ntasks=$others --exclude="$head" bash -c "$start" bash \
        --address="$RAY_ADDRESS" $any_ports $resources &
fi
# Who comes later than these 10 minutes is not counted among the trials at once.
python - "${#machines[@]}" <<'WAIT'
import subprocess, sys, time

end = time.monotonic() + 600
while subprocess.run(["ray", "health-check"], capture_output=True).returncode:
    if time.monotonic() > end:
        sys.exit("Ray does not start; see above")
    time.sleep(2)
import ray

ray.init(logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]) and time.monotonic() < end:
    time.sleep(2)
WAIT

# Slurm tells this shell 120 s before the end; the driver then has its fits write checkpoints.
python -m study run "$@" &
driver=$!
asked= over=
trap 'asked=yes over=yes; kill -TERM $driver' USR1
# `scancel` sends these: the job is not to come back.
trap 'asked=yes; kill -TERM $driver' TERM INT
code=0
wait $driver || code=$?
# A trap ends `wait` early.
[ -z "$asked" ] || { code=0; wait $driver || code=$?; }
# Not `ray stop`, which would end other people's as well: these are this shell's own.
kill $(jobs -p) 2> /dev/null || true
wait || true
[ -z "$over" ] || scontrol requeue "$SLURM_JOB_ID" || true
exit "$code"
