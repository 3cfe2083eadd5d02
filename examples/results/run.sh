#!/bin/sh
# Trains every row of ../results.md, one after another, and prints the tables. From the root of
# the repository: sh examples/results/run.sh
set -e

# NETWORK METHOD [KEY=VALUE]...: what was chosen for the method on the validation split.
row() {
  network=$1 method=$2
  shift 2
  scpl-ray train "examples/results/$network.yaml" "method=$method" \
    --name "$network-$method" --repeats 3 --engine local "$@"
}

row movie_lstm bp optimizer.lr=0.02
row movie_lstm scpl optimizer.lr=0.01
row movie_lstm dascpl optimizer.lr=0.01

row movie_transformer bp optimizer.lr=0.02
row movie_transformer bp optimizer.lr=0.01 --name movie_transformer-bp-lr0.01
row movie_transformer dascpl optimizer.lr=0.02

row mnist_vgg8 bp optimizer.lr=0.005
row mnist_vgg8 ee optimizer.lr=0.005
row mnist_vgg8 scpl optimizer.lr=0.005
row mnist_vgg8 dascpl optimizer.lr=0.005
row mnist_vgg8 deinforeg optimizer.lr=0.005 \
  "local.projection_head={kind: mlp_bn, hidden: 128, out: 64}"

row mnist_resnet18 bp optimizer.lr=0.005
row mnist_resnet18 ee optimizer.lr=0.005
row mnist_resnet18 dascpl optimizer.lr=0.005
row mnist_resnet18 deinforeg optimizer.lr=0.005 \
  "local.projection_head={kind: mlp_bn, hidden: 128, out: 64}"

row mnist_vanillacnn bp optimizer.lr=0.01
row mnist_vanillacnn ee optimizer.lr=0.01
row mnist_vanillacnn dascpl optimizer.lr=0.01
row mnist_vanillacnn sim_pred optimizer.lr=0.01 local.similarity.beta=0.5

for network in movie_lstm movie_transformer mnist_vgg8 mnist_resnet18 mnist_vanillacnn; do
  scpl-ray compare runs/"$network"-* --markdown
done
