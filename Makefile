# `make demo` and `make test` need nothing but Python 3.11 or newer: each builds .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALLED := $(VENV)/.installed
FOR_TESTS := $(VENV)/.installed-for-tests

.PHONY: demo test lint format clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e '.[train]'
	touch $@

# vLLM's build for the CPU pulls in three packages that break transformers' import there.
# Other trainers' data code goes beside the environment; where it has no build, those tests skip.
$(FOR_TESTS): $(INSTALLED) tests/loaders.txt
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	$(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	rm -rf $(VENV)/loaders
	-$(PIP) install --quiet --no-deps --target $(VENV)/loaders -r tests/loaders.txt
	touch $@

demo: $(INSTALLED)
	$(BIN)/denoise demo --out demo

test: $(FOR_TESTS) lint
	$(BIN)/python -m pytest --durations=25

lint: $(FOR_TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(FOR_TESTS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo dist .pytest_cache .ruff_cache .hypothesis
