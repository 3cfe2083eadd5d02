#!/bin/sh
# Trains every row of ../results.md and prints its tables. From the root of the repository:
#   sh examples/results/run.sh
# A row: the network, the method, and what was chosen for the two on the validation split.
set -e
row() {
  network=$1 method=$2
  shift 2
  scpl-ray train "examples/results/$network.yaml" "method=$method" "$@" \
    --name "$network-$method" --repeats 3 --engine local
}
