#!/usr/bin/env bash
# A Ray 2.60.0 cluster for one training run under Slurm. From the root of a clone:
#   sbatch cluster/slurm.sh examples/imdb.yaml train.epochs=10
# Arguments are those of `scpl-ray train`. $HOME, the submit folder and the virtual environment
# (SCPL_RAY_VENV, default ~/scpl-ray-venv) must be on storage that all nodes share.
#SBATCH --job-name=scpl-ray
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --output=scpl-ray-%j.log
#SBATCH --signal=B:TERM@90
#SBATCH --requeue
set -euo pipefail

venv=${SCPL_RAY_VENV:-$HOME/scpl-ray-venv}
# shellcheck disable=SC1091
source "$venv/bin/activate"
[ $# -gt 0 ] || set -- examples/imdb.yaml
limit_s=${SCPL_RAY_START_TIMEOUT_S:-180}
# Above the 10002-19999 that Ray's workers take, below the ports the kernel hands out.
port=$((20000 + SLURM_JOB_ID % 10000))
temp=/tmp/scpl-ray-$SLURM_JOB_ID

# One token for this job, in a folder that only this user can enter.
secrets=$(mktemp -d "$HOME/.scpl-ray-$SLURM_JOB_ID.XXXXXX")
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$secrets/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$secrets/token"
unset RAY_AUTH_TOKEN # it would win over the file

steps=()
train=
clean_up() {
  trap - EXIT TERM INT
  # Only what this script started: its own driver and its own job steps.
  local pids=(${train:+"$train"} ${steps[@]+"${steps[@]}"})
  [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
  [ ${#pids[@]} -eq 0 ] || wait "${pids[@]}" 2>/dev/null || true
  rm -rf -- "$secrets"
  srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 rm -rf -- "$temp" || true
}
trap clean_up EXIT
trap 'exit 143' TERM INT

fail() {
  echo "error: $1" >&2
  exit 1
}

step() {
  srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --ntasks-per-node=1 "$@" &
  steps+=($!)
}

# This script runs on the first node: the head is there.
# No pipes here: one that is cut short is an error under pipefail.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${head%%$'\n'*}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
head_ip=${head_ip%% *}
step --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$head_ip" --port="$port" --temp-dir="$temp" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --include-dashboard=false --block

deadline=$((SECONDS + limit_s))
until (exec 3<>"/dev/tcp/$head_ip/$port") 2>/dev/null; do
  kill -0 "${steps[0]}" 2>/dev/null || fail "the head on $head ended; its lines above say why"
  [ "$SECONDS" -lt "$deadline" ] || fail "no Ray head at $head_ip:$port after $limit_s s"
  sleep 1
done

workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$workers" -gt 0 ]; then
  step --nodes="$workers" --ntasks="$workers" --exclude="$head" \
    ray start --address="$head_ip:$port" --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --block
fi

export RAY_ADDRESS="$head_ip:$port"
python - "$SLURM_JOB_NUM_NODES" "$limit_s" <<'PYTHON' || fail "not all nodes joined $RAY_ADDRESS"
import sys, time
import ray

wanted, limit_s = int(sys.argv[1]), float(sys.argv[2])
ray.init(logging_level="ERROR")
deadline = time.monotonic() + limit_s
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"{alive} of {wanted} nodes after {limit_s:g} s")
    time.sleep(1)
PYTHON

echo "to grow it: srun --jobid=$SLURM_JOB_ID --overlap --nodes=1 --ntasks=1 --nodelist=$head" \
  "env RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$secrets/token" \
  "$venv/bin/scpl-ray grow --address $RAY_ADDRESS"
# Started again by Slurm (a node failed, a preemption): the run goes on from its newest checkpoint.
[ -z "${SLURM_RESTART_COUNT:-}" ] || set -- "$@" --resume
scpl-ray train "$@" output.dir="${SLURM_SUBMIT_DIR:-$PWD}/runs" &
train=$!
# Slurm's warning before the time limit, or scancel, ends the run as Ctrl-C does.
trap 'kill -TERM "$train" 2>/dev/null' TERM INT
status=0
wait "$train" || status=$?
# A signal ends `wait`, not the run: it still saves and says goodbye.
while kill -0 "$train" 2>/dev/null; do
  status=0
  wait "$train" || status=$?
done
train=
exit "$status"
