# Everything runs in .venv, which is made on first use from pyproject.toml and constraints.txt.
# `make demo CPU=1`, `make test CPU=1` and so on do without CUDA, in an environment of their own.
PYTHON ?= python3
VENV := .venv$(if $(CPU),-cpu)
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# of tests, which wait for processes a third of their time: three on two cores
WORKERS := $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores > 3 ? cores : 3)))

.DEFAULT_GOAL := help
.PHONY: help demo demo-audio test test-slow test-scale mutate lint docs bench bench-accuracy bench-million clean

help:                   ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

demo: $(READY)          ## real images through a real DINOv2 into a store, killed half-way; then texts
	$(VENV)/bin/fungi demo demo --whole
	$(VENV)/bin/fungi demo demo-texts --of texts

demo-audio: $(READY)    ## spoken prompts through a real Whisper; needs apt-get of Debian 12
	$(VENV)/bin/fungi demo demo-sounds --of sounds

test: $(READY)          ## the quick tests, minutes
	$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(READY)     ## kills, memory, real weights
	$(RUN) -m pytest -m slow

test-scale: $(READY)    ## servers and clusters that tests start and kill
	$(RUN) -m pytest -m scale

mutate: $(READY)        ## small faults that the tests must see, an hour; ARGS="--sample 20 --seed 2" for a part
	$(RUN) tests/mutation/mutate.py $(ARGS)

lint: $(READY)          ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy fungistore cli

docs: $(READY)          ## the pages of docs/ as a site in site/; a warning is an error
	$(RUN) -m mkdocs build --strict

bench: $(READY)         ## each against its floor, in one run: extraction, neighbours, LOFF-TA
	$(RUN) benchmarks/extract.py --theirs 4
	$(RUN) benchmarks/extract.py --features kl --files 256
	$(RUN) benchmarks/decode.py
	$(RUN) benchmarks/knn.py
	$(RUN) benchmarks/loff_loader.py
	$(RUN) benchmarks/loff_augment.py
	$(RUN) benchmarks/loff_feed.py

bench-million: $(READY) ## PCA, indexes and neighbours of a million rows: time and memory
	$(RUN) benchmarks/million.py

bench-accuracy: $(READY) ## nearest neighbours from each faster extraction, half an hour
	$(RUN) benchmarks/accuracy.py --per-class 60
	$(RUN) benchmarks/accuracy.py --data digits --digits 20

clean:                  ## removes the environments, the demo and the site
	rm -rf .venv .venv-cpu demo demo-texts demo-sounds site

ifndef CPU
# pip unpacks gigabytes on one core: where the pins are of this platform, two of it install them and
# leave bytecode to both cores. The last one adds this package, and what is not pinned.
CUDA := ^(nvidia-|triton)
RARE := /tests?/|/(transformers/models|moto|ray/(rllib|data|serve|tune|train|llm))/
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifeq ($(shell uname -sm),Linux x86_64)
	grep -E '$(CUDA)' constraints.txt > $(VENV)/cuda.txt
	grep -vE '$(CUDA)' constraints.txt > $(VENV)/other.txt
	printf '%s\n' $(VENV)/cuda.txt $(VENV)/other.txt | xargs -P 2 -n 1 \
		$(RUN) -m pip install --quiet --no-deps --no-compile --requirement
	$(RUN) -m compileall -qq -j 0 -x '$(RARE)' $(VENV)/lib || true  # some files are not for 3.11
endif
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[demo,docs,lint,test]'
	touch $@
else
# One version, so that pip prefers its build "+cpu" wherever that is found.
CPU_TORCH ?= torch==2.13.* torchvision==0.28.*
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
LIGHT := tests/install/light_requirements.py
$(READY): pyproject.toml constraints.txt $(LIGHT)
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(LIGHT) --constraints > $(VENV)/constraints.txt
	$(RUN) -m pip install --quiet --no-deps --extra-index-url $(CPU_INDEX) $(CPU_TORCH)
	$(RUN) $(LIGHT) demo docs lint test > $(VENV)/requirements.txt
	$(RUN) -m pip install --quiet --constraint $(VENV)/constraints.txt \
		--requirement $(VENV)/requirements.txt
	$(RUN) tests/install/declare_operators.py
	$(RUN) -m pip install --quiet --no-deps --editable .
	touch $@
endif
