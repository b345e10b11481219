#!/usr/bin/env bash
# Builds the Python package with what the workspace has compiled, installs it into target/venv, and tests it; arguments go
# to pytest. Neither torch nor timm is installed: their tests skip, and say so.
set -euo pipefail
cd "$(dirname "$0")/.."

export VIRTUAL_ENV="$PWD/target/venv"
python3 -m venv "$VIRTUAL_ENV"
"$VIRTUAL_ENV/bin/pip" install --quiet maturin mypy numpy pytest pillow scikit-learn "ray[data]" \
    "tritonclient[http,grpc]" grpcio-health-checking grpcio-reflection httptools uvloop
rm -rf target/wheels
"$VIRTUAL_ENV/bin/maturin" build --release --manifest-path crates/vitrim-python/Cargo.toml --out target/wheels
"$VIRTUAL_ENV/bin/pip" install --quiet --force-reinstall --no-deps target/wheels/vitrim-*.whl
"$VIRTUAL_ENV/bin/pytest" crates/vitrim-python "$@"
