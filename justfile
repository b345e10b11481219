# The commands that people repeat. `just` lists them.

default:
    @just --list

# Format, lint, test, run the README's main command: what CI does.
ci:
    .ci/run

test *args:
    cargo test --release --workspace {{args}}

lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

bench *args:
    cargo run --release -- bench {{args}}

# The Python package, built, installed and tested in an environment of its own.
python *args:
    scripts/test_python.sh {{args}}

# The demo's table over three seeds.
demo:
    for seed in 0 1 2; do cargo run --release -- demo --seed $seed --out runs/demo-$seed || exit 1; done

# A policy for the shared CIFAR-10 backbone, and the table of the README.
cifar:
    cargo run --release -- train --preset drop --model ../shared/models/cifar10_vit_d128 --data ../shared/data/cifar10 --max-drop 0.4 --out runs/cifar10
    cargo run --release -- eval --model ../shared/models/cifar10_vit_d128 --data ../shared/data/cifar10 --split test --policy runs/cifar10/policy

# The bundled backbone, from scratch: over an hour on two cores.
backbone:
    cargo run --release -- pretrain --preset scenes --data scenes --weights bf16 --threads 2 --out runs/backbone

# Ours beside PyTorch, ONNX Runtime and OpenVINO, installed into .peers.
compare *args:
    cargo build --release --bin vitrim
    python3 scripts/compare_peers.py {{args}}

# The optimised binary that a release ships.
dist:
    cargo build --profile dist -p vitrim
