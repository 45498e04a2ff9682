# Tako needs no building: these are the checks and the demonstration. PYTHON chooses the interpreter.

PYTHON ?= python3
# those installed by the system, by hand, and by pyenv; each is checked once
PYTHONS ?= $(sort $(realpath $(wildcard /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9] \
             /usr/local/bin/python3.[0-9] /usr/local/bin/python3.[0-9][0-9] $(HOME)/.pyenv/versions/3.*/bin/python3)))
TESTS ?= test*.py
TOOLS = .venv-tools
PICTURES_TOOLS = .venv-pictures
SUITES ?= $(patsubst tests/e2e/%.py,%,$(filter-out %/suite.py %/prove.py,$(sort $(wildcard tests/e2e/*.py))))
BENCH_TOOLS = .venv-bench-$(subst /,-,$(PYTHON))
BENCH_COMMANDS = ab curl minisign nginx openssl signify-openbsd
BENCH_PACKAGES = apache2-utils curl minisign nginx-light openssl signify-openbsd

PREFIX ?= /usr/local
LIBRARY = $(DESTDIR)$(PREFIX)/lib/tako
COMMAND = $(DESTDIR)$(PREFIX)/bin/tako

# for the target VENV/installed of a file of requirements
define INTO_VENV
@$(PYTHON) -c 'import ensurepip' 2> /dev/null || sh tests/e2e/packages.sh python3-venv
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
touch $@
endef

.PHONY: help demo install uninstall check list-pythons check-pythons check-large soak lint coverage bench bench-packages bench-plots \
        bench-delta pictures prove mutants clean $(PYTHONS:%=check@%) $(SUITES:%=prepare-%) $(SUITES:%=prove-%)

help:
	@echo 'make demo            publish two versions of an image and fetch them, on this machine'
	@echo 'make install         put tako on the PATH below PREFIX (/usr/local), where it starts faster than the bare file'
	@echo 'make uninstall       take it away again'
	@echo 'make check           run the tests; needs nothing but python3'
	@echo 'make check-pythons   run the tests on every Python found here'
	@echo 'make check-large     store and fetch an image of 5 GiB in flat memory (needs 12 GiB of disk)'
	@echo 'make soak            kill updates at random moments for SOAK_SECONDS (300), and see them converge'
	@echo 'make prove           what needs root and packages: real servers, systemd, power cuts, injected failures, liars'
	@echo '                     and fuzzers; in a sample of PROVE_SECONDS, if set; SUITES names some of them'
	@echo 'make mutants         break tako.py in each small way, and see that the tests notice (needs PyPI; SECTIONS names some)'
	@echo 'make bench-delta     updates of real images beside casync, zsync, zchunk, xdelta3 and bsdiff (root; 10 GB, an hour)'
	@echo 'make pictures        draw the terminal session in the README from a real run (needs PyPI)'
	@echo 'make lint            ruff, mypy, vermin, and other implementations as oracles (needs PyPI)'
	@echo 'make coverage        how much of tako.py the tests reach (needs PyPI)'
	@echo 'make bench           measure Tako beside its peers, 15 minutes (needs PyPI, root or its packages, 11 GB of disk)'
	@echo 'make bench-plots     draw what make bench measured, and write it into docs/ (needs PyPI)'
	@echo 'make clean           remove what these made'

# $(call NEEDS,TARGET,MODULES) says what to install if Python lacks a module of these
NEEDS = @$(PYTHON) -c '$(patsubst %,import %;,$(2))' 2> /dev/null || \
        { echo 'make $(1) needs all of Python (Debian: apt install python3)' >&2; exit 1; }

demo:
	$(call NEEDS,demo,http.server shlex tarfile)
	@PYTHON='$(PYTHON)' $(PYTHON) tests/demo.py

# The first run of a script compiles all of it, each time; of a module, once: so the command imports one. It ignores
# what the environment and others' packages would add (-I, -S), since it needs the standard library alone.
define STARTER
#!$(abspath $(shell command -v $(PYTHON))) -IS
import signal
if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)        # as tako.py does, until it is loaded
import sys
sys.path.insert(0, '$(PREFIX)/lib/tako')
import tako
tako.stop_on_signals()
tako.end(tako.main(sys.argv[1:]))
endef

install: export STARTER_TEXT = $(STARTER)
install:
	umask 022 && mkdir -p '$(LIBRARY)' '$(dir $(COMMAND))'
	install -m 644 tako.py '$(LIBRARY)/tako.py'
	rm -f '$(LIBRARY)'/__pycache__/tako.*
	umask 022 && $(PYTHON) -I -m compileall -q -d '$(PREFIX)/lib/tako' '$(LIBRARY)'
	printf '%s\n' "$$STARTER_TEXT" > '$(COMMAND)'
	chmod 755 '$(COMMAND)'

uninstall:
	rm -f '$(COMMAND)' '$(LIBRARY)/tako.py' '$(LIBRARY)'/__pycache__/tako.*
	rmdir '$(LIBRARY)/__pycache__' '$(LIBRARY)' 2> /dev/null || true

check:
	$(call NEEDS,check,http.server unittest)
	@PYTHONPATH=. $(PYTHON) -W error tests/check.py '$(TESTS)'

list-pythons:
	@printf '%s\n' $(PYTHONS)

check-pythons: $(PYTHONS:%=check@%)

$(PYTHONS:%=check@%): check@%:
	@echo "== $* is $$($* --version)"
	@CHECK_WORKERS=1 PYTHONPATH=. $* -W error tests/check.py

check-large:
	PYTHONPATH=. $(PYTHON) -W error tests/large.py

soak: export SOAK_SECONDS ?= 300
soak:
	PYTHONPATH=. $(PYTHON) -W error tests/soak.py

# what cannot be prepared is no reason not to run the suites, which say what they cannot do without it
prove:
	@$(MAKE) --no-print-directory -k $(SUITES:%=prepare-%) || echo 'not all could be prepared'
	$(PYTHON) tests/e2e/prove.py $(SUITES)

bench-delta:
	PYTHONPATH=. $(PYTHON) -W error tests/bench/delta.py

lint: $(TOOLS)/installed
	$(TOOLS)/bin/ruff check .
	$(TOOLS)/bin/mypy --strict --python-version 3.10 tako.py
	$(TOOLS)/bin/vermin --quiet --no-tips --violations --target=3.6- --eval-annotations tako.py tests/*.py tests/attacks/*.py tests/bench/*.py
	PYTHONPATH=. $(TOOLS)/bin/python tests/oracles.py

coverage: $(TOOLS)/installed
	$(TOOLS)/bin/coverage erase
	PYTHONPATH=. $(TOOLS)/bin/coverage run tests/check.py
	$(TOOLS)/bin/coverage combine --quiet
	$(TOOLS)/bin/coverage report

bench: bench-packages $(BENCH_TOOLS)/installed
	PYTHONPATH=. $(BENCH_TOOLS)/bin/python tests/bench/speed.py

bench-plots: $(BENCH_TOOLS)/installed
	PYTHONPATH=. $(BENCH_TOOLS)/bin/python tests/bench/page.py

pictures: $(PICTURES_TOOLS)/installed
	PYTHONPATH=tests:. $(PICTURES_TOOLS)/bin/python tests/pictures.py

bench-packages:
	@for each in $(BENCH_COMMANDS); do command -v "$$each" > /dev/null || missing="$$missing $$each"; done; \
	test -z "$$missing" || { echo "lacking:$$missing"; apt-get update -q && apt-get install -qy $(BENCH_PACKAGES); }

$(BENCH_TOOLS)/installed: tests/bench/requirements.txt
	$(INTO_VENV)

$(PICTURES_TOOLS)/installed: tests/pictures_requirements.txt
	$(INTO_VENV)

$(TOOLS)/installed: tests/requirements.txt
	$(INTO_VENV)

clean:
	rm -rf $(TOOLS) $(PICTURES_TOOLS) $(SERVERS_TOOLS) $(PARSERS_TOOLS) $(MUTANTS_TOOLS) .venv-bench* build .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# What a suite of make prove needs, beyond python3. A suite without a recipe here needs nothing.
$(SUITES:%=prepare-%):

prepare-power prepare-syscalls:
	@dpkg --status strace xfsprogs e2fsprogs >/dev/null 2>&1 || sh tests/e2e/packages.sh strace xfsprogs e2fsprogs

prepare-metrics:
	@dpkg --status prometheus prometheus-node-exporter >/dev/null 2>&1 || \
	    sh tests/e2e/packages.sh prometheus prometheus-node-exporter

SERVERS_TOOLS = .venv-servers
SERVERS_COMMANDS = nginx apache2 lighttpd caddy squid tinyproxy openssl curl haproxy dnsmasq ip rclone
LIGHTTPD_TLS = /usr/lib/lighttpd/mod_openssl.so
SERVERS_PACKAGES = nginx-light apache2 lighttpd lighttpd-mod-openssl caddy squid tinyproxy openssl curl ca-certificates \
                   haproxy dnsmasq-base iproute2 rclone

prepare-servers: $(SERVERS_TOOLS)/installed
	@for each in $(SERVERS_COMMANDS); do PATH="$$PATH:/usr/sbin" command -v "$$each" > /dev/null || missing="$$missing $$each"; done; \
	{ test -e $(LIGHTTPD_TLS) && test -z "$$missing"; } || sh tests/e2e/packages.sh $(SERVERS_PACKAGES)

$(SERVERS_TOOLS)/installed: tests/e2e/servers_requirements.txt
	$(INTO_VENV)

PARSERS_TOOLS = .venv-parsers
MUTANTS_TOOLS = .venv-mutants

prepare-parsers: $(PARSERS_TOOLS)/installed

# of the Pythons here, one that atheris has a wheel for; if there is none, the suite says so and is skipped
$(PARSERS_TOOLS)/installed: tests/e2e/parsers_requirements.txt
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || sh tests/e2e/packages.sh python3-venv || true
	@for python in $(PYTHON) $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || continue; \
	    "$$python" -m venv --clear $(PARSERS_TOOLS) && $(PARSERS_TOOLS)/bin/pip install --quiet --disable-pip-version-check \
	        --only-binary :all: -r tests/e2e/parsers_requirements.txt && touch $@ && exit 0; \
	done; rm -rf $(PARSERS_TOOLS); echo 'no Python from 3.12 on here for which atheris installs'

mutants: $(MUTANTS_TOOLS)/installed
	$(MUTANTS_TOOLS)/bin/python tests/mutants.py $(SECTIONS)

$(MUTANTS_TOOLS)/installed: tests/mutants_requirements.txt
	$(INTO_VENV)

$(SUITES:%=prove-%): prove-%:
	@$(MAKE) --no-print-directory prepare-$* || echo 'not all could be prepared'
	$(PYTHON) tests/e2e/prove.py $*

# debootstrap makes roots of Debian in build/pythons, once a month
prepare-pythons:
	@sh tests/e2e/pythons_parts/prepare.sh

prepare-machine:
	@sh tests/e2e/machine_parts/prepare.sh
