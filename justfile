# The commands that people repeat. `just` lists them.

default:
    @just --list

# Format, lint, test, run the README's main command: what CI does.
ci:
    .ci/run

test *args:
    cargo test --release --workspace {{args}}

# The tests that need neither training nor a clock, with overflow checks and debug assertions: after a change of kernels or
# parsers. Seven minutes on two cores to compile, so that CI leaves them out.
checked:
    cargo test --profile checked -p vitrim-kernels -p vitrim-vit -p vitrim-prune -p vitrim-data \
        -p vitrim-durable -p vitrim-random -p vitrim-text -- \
        --skip sessions_on_one_pool --skip steps_of_several_sessions --skip a_long_pass_ends_soon

# Each command that writes files is killed so many times at random moments, then run to its end; see docs/reliability.md.
faults kills="200":
    VITRIM_KILLS={{kills}} cargo test --release --workspace --test cli faults -- --nocapture --test-threads 1

lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --all-features --no-deps

# The kernels' unsafe code under valgrind, which knows AVX2 but not AVX-512: two minutes.
valgrind:
    PROPTEST_CASES=3 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --error-exitcode=9 -q" \
        cargo test --release -p vitrim-kernels --features proptest/std --lib -- --test-threads 1

# The kernels' tests on a processor that this machine is not, emulated by Bochs: arrow_lake has AVX-VNNI, tigerlake AVX-512 with
# VNNI, sapphire_rapids BF16, too. A quarter of an hour each. Left out: what needs a clock, and what takes longer than all the rest.
# On sapphire_rapids the two bf16 tests fail, because Bochs computes VDPBF16PS wrongly for some operands: a loop of two lines over
# _mm512_dpbf16_ps gives right or wrong sums depending on which of its factors is broadcast.
emulate processor="arrow_lake":
    test -d .emulator || (python3 -m venv .emulator && .emulator/bin/pip install --quiet bochscpu-python)
    PROPTEST_CASES=2 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
        CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/.emulator/bin/python $PWD/scripts/emulate.py {{processor}}" \
        cargo test --release -p vitrim-kernels --features proptest/std --lib --target x86_64-unknown-linux-gnu -- --test-threads 1 \
        --skip peak --skip gradient --skip long_

# One fuzz target of fuzz/fuzz_targets for so many seconds, from the seeds in fuzz/seeds. Needs a nightly toolchain and cargo-fuzz.
# So far each was run for 2 s to 61 s: docs/checkpoints.md.
# Without a sanitizer: the crates it reaches forbid unsafe code, and an allocator refuses what is too large.
fuzz target seconds="600":
    mkdir -p fuzz/corpus/{{target}}
    cd fuzz && nice -n 19 cargo +nightly fuzz run --sanitizer none {{target}} corpus/{{target}} seeds/{{target}} -- \
        -max_total_time={{seconds}} -rss_limit_mb=4096 -timeout=20

# The kernels' scalar level under Miri, which knows undefined behaviour but none of the wider instruction sets. Without
# `proptest/std`, PROPTEST_CASES is not read, and each property is tried 256 times.
miri *args:
    VITRIM_SIMD=scalar PROPTEST_CASES=2 MIRIFLAGS="-Zmiri-disable-isolation" \
        cargo +nightly miri test -p vitrim-kernels --features proptest/std --lib {{args}}

bench *args:
    cargo run --release -- bench {{args}}

# The Python package, built, installed and tested in an environment of its own.
python *args:
    scripts/test_python.sh {{args}}

# Training, calibration and evaluation by ranks under mpirun.
mpi:
    scripts/test_mpi.sh

# The jobs of contrib/ under a Slurm of its own: some minutes.
slurm:
    scripts/test_slurm.sh

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
        cargo run --release -- train $of --max-drop 1 --seed $seed --preset dynamicvit --out runs/dynamicvit-$seed
        sides+=(--policy runs/cifar-$seed/policy --rival gumbel-$seed=runs/gumbel-$seed/policy)
        sides+=(--rival dynamicvit-$seed=runs/dynamicvit-$seed/policy)
    done
    cargo run --release -- compare $of --split test "${sides[@]}" \
        --sweep-images 500 --near 1 --studies fixed-budgets --no-speed --report runs/compare-cifar

# Policies of three seeds for the bundled backbone, beside ToMe on 50,000 test scenes; the comparison alone took 18 minutes with AVX-512.
scenes:
    #!/usr/bin/env bash
    set -eu
    of="--model crates/vitrim/assets/backbone --data scenes"
    sides=()
    for seed in 0 1 2; do
        cargo run --release -- train $of --updates 100 --seed $seed --no-calibrate --out runs/scenes-$seed
        cargo run --release -- calibrate $of --policy runs/scenes-$seed/policy --calibration-images 3000
        sides+=(--policy runs/scenes-$seed/policy)
    done
    cargo run --release -- compare $of --split test --images 50000 "${sides[@]}" --methods policy,tome --costs 0.5 --drops 0.4 \
        --near 1 --no-studies --report runs/compare-scenes

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

# `vitrim serve` under load, beside `bench --streams`, LitServe and Ray Serve, which it installs into .peers; half an hour a model.
# Needs an idle machine.
serve-bench model photos *args:
    cargo build --release --workspace --bin vitrim
    python3 scripts/serve_bench.py --model {{model}} --photos {{photos}} {{args}}

# Random requests for so many seconds; prints the slope of the server's memory.
serve-soak seconds="3600" *args:
    cargo build --release --workspace --bin vitrim
    python3 scripts/serve_soak.py --seconds {{seconds}} --model scenes=crates/vitrim/assets/backbone \
        --model tiny=../shared/models/deit_tiny_patch16_224 {{args}}
