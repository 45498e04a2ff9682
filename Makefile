# Tako needs no building: these are the checks and the demonstration. PYTHON chooses the interpreter.

PYTHON ?= python3
# those installed by the system, by hand, and by pyenv; each is checked once
PYTHONS ?= $(sort $(realpath $(wildcard /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9] \
             /usr/local/bin/python3.[0-9] /usr/local/bin/python3.[0-9][0-9] $(HOME)/.pyenv/versions/3.*/bin/python3)))
TOOLS = .venv-tools
SUITES ?= $(patsubst tests/e2e/%.py,%,$(filter-out %/suite.py %/prove.py,$(sort $(wildcard tests/e2e/*.py))))

.PHONY: help demo check check-pythons check-large soak prove lint coverage clean $(SUITES:%=prepare-%) $(SUITES:%=prove-%) $(PYTHONS:%=check@%)

help:
	@echo 'make demo            publish two versions of an image and fetch them, on this machine'
	@echo 'make check           run the tests; needs nothing but python3'
	@echo 'make check-pythons   run the tests on every Python found here'
	@echo 'make check-large     store and fetch an image of 5 GiB in flat memory (needs 11 GiB of disk)'
	@echo 'make soak            kill updates at random moments for SOAK_SECONDS (300), and see them converge'
	@echo 'make prove           what needs root and packages: real servers, systemd, power cuts, injected failures, liars'
	@echo '                     and fuzzers; in a sample of PROVE_SECONDS, if set; SUITES names some of them'
	@echo 'make lint            ruff, mypy, vermin, and other implementations as oracles (needs PyPI)'
	@echo 'make coverage        how much of tako.py the tests reach (needs PyPI)'
	@echo 'make clean           remove what these made'

demo:
	@PYTHON='$(PYTHON)' $(PYTHON) tests/demo.py

check:
	PYTHONPATH=. $(PYTHON) -W error -m unittest discover -s tests

check-pythons: $(PYTHONS:%=check@%)

$(PYTHONS:%=check@%): check@%:
	@echo "== $* is $$($* --version)"
	@PYTHONPATH=. $* -W error -m unittest discover -s tests

check-large:
	PYTHONPATH=. $(PYTHON) -W error tests/large.py

soak: export SOAK_SECONDS ?= 300
soak:
	PYTHONPATH=. $(PYTHON) -W error tests/soak.py

prove: $(SUITES:%=prepare-%)
	$(PYTHON) tests/e2e/prove.py $(SUITES)

lint: $(TOOLS)/installed
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/mypy --strict --python-version 3.10 tako.py
	$(TOOLS)/bin/vermin --quiet --no-tips --violations --target=3.6- --eval-annotations tako.py tests/*.py
	PYTHONPATH=. $(TOOLS)/bin/python tests/oracles.py

coverage: $(TOOLS)/installed
	$(TOOLS)/bin/coverage erase
	PYTHONPATH=. $(TOOLS)/bin/coverage run -m unittest discover -s tests
	$(TOOLS)/bin/coverage combine --quiet
	$(TOOLS)/bin/coverage report

$(TOOLS)/installed: tests/requirements.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

clean:
	rm -rf $(TOOLS) .coverage .coverage.* .mypy_cache .ruff_cache __pycache__ tests/__pycache__

# What a suite of make prove needs, beyond python3. A suite without a recipe here needs nothing.
$(SUITES:%=prepare-%):

$(SUITES:%=prove-%): prove-%: prepare-%
	$(PYTHON) tests/e2e/prove.py $*

prepare-machine:
	@sh tests/e2e/machine_parts/prepare.sh
