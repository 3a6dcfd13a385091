# `make install` first needs nothing but python3 with venv. Every other target installs by itself.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
GENERATED := common/wire/generated

.PHONY: install demo test check proto check-proto test-oldest clean

install: $(STAMP)

$(STAMP): pyproject.toml setup.py $(wildcard common/codec/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[cloud,report,dev]'
	touch $@

demo: install ## Train a local pair over an emulated 10 Mbit/s link on images that the code draws.
	BIN=$(BIN) sh examples/demo.sh

test: install # files in their order: those of tests/unit, which are short, come last, so that both processes end together
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: install check-proto
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: install ## Generate the protobuf code anew after a change of the .proto file.
	$(BIN)/python -m grpc_tools.protoc -I $(GENERATED)=proto/headwater/v1 \
	  --python_out=. --grpc_python_out=. \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=. $(GENERATED)/training.proto

check-proto: proto ## Fails where the committed code is not what the .proto file generates.
	git diff --exit-code -- $(GENERATED)

test-oldest: ## The tests on the oldest packages that pyproject.toml admits; outside CI.
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet -e '.[cloud,report,dev]' \
	  torch==2.4.1 torchvision==0.19.1 'numpy<2' grpcio==1.73.1 protobuf==6.31.0 \
	  grpcio-health-checking==1.73.1 cryptography==42.0.0 safetensors==0.4.5 zstandard==0.22.0 pillow==9.3.0 rich==13.0.0 click==8.1.7 \
	  apsw==3.46.0.0 matplotlib==3.8.0 jinja2==3.1.2
	.venv-oldest/bin/python -m pytest

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
