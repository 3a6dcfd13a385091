#!/bin/sh
# A local pair: a cloud and an edge train one network over an emulated 10 Mbit/s link, on drawn images.
# make demo [SEED=1]; flags given to this script go to edge-worker train
set -eu
BIN=${BIN:-.venv/bin}
DIR=$(mktemp -d)
trap 'kill "$CLOUD" 2>/dev/null || true; wait "$CLOUD" 2>/dev/null || true; rm -rf "$DIR"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$BIN/cloud-worker" serve --listen 127.0.0.1:0 --run-dir "$DIR/cloud" --threads 1 --log-level warning \
  >"$DIR/listening" &
CLOUD=$!
until grep -qs '^listening on ' "$DIR/listening"; do
  kill -0 "$CLOUD" || { echo "the cloud did not start" >&2; exit 1; }
  sleep 0.2
done

"$BIN/edge-worker" train --cloud "$(sed -n 's/^listening on //p' "$DIR/listening")" --run-dir "$DIR/edge" \
  --dataset synthetic --model resnet18 --split layer1.0 --bits 4 --link-rate 10mbit --link-latency 20ms \
  --epochs 3 --batch-size 64 --lr 0.05 --warmup 50 --threads 1 --seed "${SEED:-0}" "$@"
