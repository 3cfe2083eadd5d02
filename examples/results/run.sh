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
row movie_lstm bp_p optimizer.lr=0.02
row movie_lstm ee optimizer.lr=0.01
row movie_lstm scpl optimizer.lr=0.01
row movie_lstm dascpl optimizer.lr=0.01
row movie_lstm al optimizer.lr=0.02
row movie_lstm sim_pred optimizer.lr=0.01
row movie_lstm deinforeg optimizer.lr=0.02

row movie_transformer bp optimizer.lr=0.02
row movie_transformer bp optimizer.lr=0.01 --name movie_transformer-bp-lr0.01
row movie_transformer bp_p optimizer.lr=0.01
row movie_transformer ee optimizer.lr=0.01
row movie_transformer scpl optimizer.lr=0.02
row movie_transformer dascpl optimizer.lr=0.02
row movie_transformer al optimizer.lr=0.01
row movie_transformer sim_pred optimizer.lr=0.01
row movie_transformer deinforeg optimizer.lr=0.02

row mnist_vgg8 bp optimizer.lr=0.005
row mnist_vgg8 bp_p optimizer.lr=0.005
row mnist_vgg8 ee optimizer.lr=0.005
row mnist_vgg8 scpl optimizer.lr=0.005
row mnist_vgg8 dascpl optimizer.lr=0.005
row mnist_vgg8 al optimizer.lr=0.002 \
  local.associated.width=64 local.associated.reconstruction=cross_entropy
row mnist_vgg8 sim_pred optimizer.lr=0.005 local.similarity.beta=0.5
row mnist_vgg8 deinforeg optimizer.lr=0.005 \
  "local.projection_head={kind: mlp_bn, hidden: 128, out: 64}"

row mnist_resnet18 bp optimizer.lr=0.005
row mnist_resnet18 bp_p optimizer.lr=0.005
row mnist_resnet18 ee optimizer.lr=0.005
row mnist_resnet18 scpl optimizer.lr=0.005
row mnist_resnet18 dascpl optimizer.lr=0.005
row mnist_resnet18 al optimizer.lr=0.002 \
  local.associated.width=64 local.associated.reconstruction=cross_entropy
row mnist_resnet18 sim_pred optimizer.lr=0.005 local.similarity.beta=0.5
row mnist_resnet18 deinforeg optimizer.lr=0.005 \
  "local.projection_head={kind: mlp_bn, hidden: 128, out: 64}"

row mnist_vanillacnn bp optimizer.lr=0.01
row mnist_vanillacnn bp_p optimizer.lr=0.01
row mnist_vanillacnn ee optimizer.lr=0.01
row mnist_vanillacnn scpl optimizer.lr=0.01
row mnist_vanillacnn dascpl optimizer.lr=0.01
row mnist_vanillacnn al optimizer.lr=0.002 \
  local.associated.width=64 local.associated.reconstruction=cross_entropy
row mnist_vanillacnn sim_pred optimizer.lr=0.01 local.similarity.beta=0.5
row mnist_vanillacnn deinforeg optimizer.lr=0.005 \
  "local.projection_head={kind: mlp_bn, hidden: 128, out: 64}"

# The same at 28 x 28 pixels.
row mnist_vgg8 bp optimizer.lr=0.005 data.image_size=28 --name mnist_vgg8_28-bp
row mnist_vgg8 dascpl optimizer.lr=0.005 data.image_size=28 --name mnist_vgg8_28-dascpl
row mnist_resnet18 bp optimizer.lr=0.005 data.image_size=28 --name mnist_resnet18_28-bp
row mnist_resnet18 dascpl optimizer.lr=0.005 data.image_size=28 --name mnist_resnet18_28-dascpl
row mnist_vanillacnn bp optimizer.lr=0.01 data.image_size=28 --name mnist_vanillacnn_28-bp
row mnist_vanillacnn dascpl optimizer.lr=0.01 data.image_size=28 --name mnist_vanillacnn_28-dascpl

for network in movie_lstm movie_transformer mnist_vgg8 mnist_resnet18 mnist_vanillacnn; do
  scpl-ray compare runs/"$network"-* --markdown
done
scpl-ray compare runs/*_28-* --markdown
