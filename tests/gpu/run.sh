#!/usr/bin/env bash
# One call on a borrowed CUDA machine: tests of the device, golden numbers there, then the benchmark's GPU part.
#
#   tests/gpu/run.sh                     seven minutes at most; needs what is below, and no network
#   DEVICE=cpu QUICK=1 tests/gpu/run.sh  a rehearsal without a GPU, at toy size: it says nothing of speed (PATIENCE=10: on a
#                                        machine that is busy, ten times the time limits)
#
# Writes into $OUT (results/gpu): tests.log, golden.log, gpu.cuda.json (copy it to docs/benchmarks, then `make bench BENCH=draw`)
# and summary.txt. Each part has its own time limit and does not keep the next from running; the exit status is the worst.
#
# Python 3.11 or later with torch, torchvision, timm, pandas, pyarrow, scipy, scikit-learn, safetensors, pyyaml, requests, jinja2,
# markdown-it-py, matplotlib, seaborn, tqdm, hypothesis and pytest. Packages that such a machine lacked when this was written travel
# as wheels for its Python (about 10 MB): open_clip_torch ftfy wcwidth jsonschema jsonschema-specifications referencing rpds-py
# tensorboardX pydantic pydantic-core annotated-types typing-inspection. Where they lie in .whl/ (kept out of git), this script
# installs them into a folder of its own. Snakemake is not needed.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} OUT=${OUT:-results/gpu} QUICK=${QUICK:-} PATIENCE=${PATIENCE:-1}
mkdir -p "$OUT"
if compgen -G ".whl/*.whl" > /dev/null; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl || exit 1
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PEL_TEST_DEVICE=$DEVICE
worst=0
: > "$OUT/summary.txt"

part() { # NAME SECONDS COMMAND...: its output goes to NAME.log and its end to the summary
    local name=$1 limit=$(($2 * PATIENCE)) start=$SECONDS status=0
    shift 2
    timeout --kill-after=5 "$limit" "$@" > "$OUT/$name.log" 2>&1 || status=$?
    [ "$status" -le "$worst" ] || worst=$status
    echo "$name: exit $status after $((SECONDS - start)) s; $(tail -n 1 "$OUT/$name.log")" | tee -a "$OUT/summary.txt"
}

part machine 40 "$PYTHON" -c "
import torch, torchvision, timm, open_clip
from pel_core.bench.machine import machine
from pel_core.hardware.devices import pick_device
print(torchvision.__version__, timm.__version__, open_clip.__version__, machine(pick_device('$DEVICE')))"
part golden 60 "$PYTHON" -m pel_core.conformance tests/golden --device "$DEVICE"
[ -n "$QUICK" ] || part tests 110 "$PYTHON" -m pytest -q -p no:cacheprovider tests/gpu/test_device.py
part bench 260 "$PYTHON" -m pel_core.bench gpu --device "$DEVICE" --out "$OUT" ${QUICK:+--quick}
grep -E "FAILED|unsupported$|^FAILED|Error" "$OUT/golden.log" "$OUT/tests.log" 2> /dev/null | head -n 40
cat "$OUT/bench.log"
exit "$worst"
