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

# The kernels' unsafe code under valgrind, which knows AVX2 but not AVX-512: two minutes.
valgrind:
    PROPTEST_CASES=3 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --error-exitcode=9 -q" \
        cargo test --release -p vitrim-kernels --lib -- --test-threads 1

bench *args:
    cargo run --release -- bench {{args}}

# The Python package, built, installed and tested in an environment of its own.
python *args:
    scripts/test_python.sh {{args}}

# The demo's table over three seeds.
demo:
    for seed in 0 1 2; do cargo run --release -- demo --seed $seed --out runs/demo-$seed || exit 1; done

# Policies and gradients of three seeds and the controls for the shared CIFAR-10 backbone, and the README's comparison: three
# hours at AVX2.
cifar:
    #!/usr/bin/env bash
    set -eu
    of="--model ../shared/models/cifar10_vit_d128 --data ../shared/data/cifar10"
    sides=()
    for seed in 0 1 2; do
        cargo run --release -- train $of --max-drop 1 --seed $seed --out runs/cifar-$seed
        cargo run --release -- train $of --max-drop 1 --seed $seed --preset gumbel --out runs/gumbel-$seed
        sides+=(--policy runs/cifar-$seed/policy --rival gumbel-$seed=runs/gumbel-$seed/policy)
    done
    cargo run --release -- train $of --max-drop 1 --preset dynamicvit --out runs/dynamicvit-0
    cargo run --release -- compare $of --split test "${sides[@]}" --rival dynamicvit=runs/dynamicvit-0/policy \
        --sweep-images 500 --near 1 --studies fixed-budgets --no-speed --report runs/compare-cifar

# What a shift of the images costs a calibrated policy.
shift:
    #!/usr/bin/env bash
    set -eu
    for corruption in {noise,blur,contrast,brightness,jpeg}-{mild,severe}; do
        echo "$corruption"
        cargo run --release -- eval --model ../shared/models/cifar10_vit_d128 --data ../shared/data/cifar10 --split test \
            --policy runs/cifar-0/policy --max-drop 1 --methods policy --no-speed --corrupt $corruption
    done

# The bundled backbone, from scratch: three quarters of an hour to two hours on two cores.
backbone:
    cargo run --release -- pretrain --preset scenes --data scenes --weights bf16 --threads 2 --out runs/backbone

# Ours beside PyTorch, ONNX Runtime and OpenVINO, installed into .peers.
compare *args:
    cargo build --release --bin vitrim
    python3 scripts/compare_peers.py {{args}}

# The optimised binary that a release ships.
dist:
    cargo build --profile dist -p vitrim
