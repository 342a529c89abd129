# Everything runs in .venv, which is made on first use from pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: demo test test-slow mutate lint docs bench bench-accuracy bench-million clean

demo: $(READY)          ## real images through a real DINOv2 into a store, killed half-way
	$(RUN) examples/demo.py

test: $(READY)          ## the quick tests, minutes
	$(RUN) -m pytest --numprocesses auto --dist loadfile

test-slow: $(VENV)/.docs ## kills, memory, real weights
	$(RUN) -m pytest -m slow

mutate: $(READY)        ## small faults that the tests must see, an hour; ARGS="--sample 20 --seed 2" for a part
	$(RUN) tests/mutation/mutate.py $(ARGS)

lint: $(READY)          ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy fungistore cli

docs: $(VENV)/.docs     ## the pages of docs/ as a site in site/; a warning is an error
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

clean:
	rm -rf $(VENV) demo site

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[demo,test,lint]'
	touch $@

$(VENV)/.docs: $(READY)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
