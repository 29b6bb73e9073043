bin := ".venv/bin"

# List the commands.
default:
    @just --list

# Make .venv with the locked packages, dwhctl installed from here.
setup:
    python3 -m venv .venv
    {{ bin }}/pip install --quiet --require-hashes -r constraints-test.txt
    {{ bin }}/pip install --quiet --no-deps --no-build-isolation -e .

# Run the unit tests, or those given.
test *tests="tests/unit":
    {{ bin }}/pytest -q -n 2 {{ tests }}

# Format, lint, check types and layers.
check:
    {{ bin }}/ruff format . && {{ bin }}/ruff check --fix . && {{ bin }}/mypy && {{ bin }}/lint-imports

# Write the generated pages and pictures.
docs:
    {{ bin }}/python -m dwhctl.cli.reference > reference.tmp && mv reference.tmp docs/reference.md
    {{ bin }}/python docs/pictures.py

# Run the whole gate.
gate:
    .ci/run
