# VisionMeter. `make run` and `make test` need Python 3.11 or newer with pip, make and git, and nothing else.

PORT ?= 8501
HOST ?= localhost
TORCH_BACKEND ?=
PYTHON ?=
PYTEST_ARGS ?=
TEST_WORKERS ?= 3
BROWSER_WORKERS ?= 2

VENV = .venv
BIN = $(VENV)/bin
SETUP = TORCH_BACKEND='$(TORCH_BACKEND)' PYTHON='$(PYTHON)' sh deploy/setup.sh

# Where an environment forbids bytecode, as images of containers do, every process would compile 2,000 modules again: a server
# starts with 5 seconds of processor time with it, and with 8 without.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run install install-dev test lint demo bench soak screenshots constraints clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "  PORT=8501           the port of make run"
	@echo "  HOST=localhost      the address of make run; 0.0.0.0 lets other machines in"
	@echo "  TEST_WORKERS=3      test files that run at the same time; BROWSER_WORKERS=2 those of the browser"
	@echo "  TORCH_BACKEND=cpu   the build of torch to install (a value of uv's --torch-backend)"

run: install ## install what is needed, then serve the portal on http://localhost:8501
	@test -f weights/yolov8s-fall.pt || $(BIN)/python -m core.inference.embedded
	@$(BIN)/alembic upgrade head
	@echo
	@echo "  VisionMeter: http://localhost:$(PORT)"
	@echo "  The first account that signs up on a new installation is the operator. Ctrl-C stops."
	@echo
	@exec $(BIN)/streamlit run app.py --server.address $(HOST) --server.port $(PORT) --server.headless true

install: ## make .venv and install what make run needs
	@$(SETUP) run

install-dev: ## the same, and what make test needs
	@$(SETUP) dev

lint: install-dev ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three runs, each whatever the one before found: browsers wait more than they compute, and what measures time has the machine
# to itself. A journey that failed beside another is tried once more by itself, on a server of its own, and has to pass there.
# 1 is pytest's word for a test that failed, 5 for no test selected.
test: lint ## lint, then all tests; those that need Chromium or PostgreSQL skip by name without
	@$(BIN)/python -m core.inference.embedded --convert
	@failed=; \
	run() { echo "pytest $$*"; $(BIN)/python -m pytest "$$@" $(PYTEST_ARGS) || [ $$? -eq 5 ] || failed=yes; }; \
	run -m "not soak and not alone and not browser" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0; \
	journeys() { echo "pytest $$*"; $(BIN)/python -m pytest -m "not soak and not alone and browser" "$$@" $(PYTEST_ARGS); }; \
	journeys -n $(BROWSER_WORKERS) --durations=30 --dist loadfile --no-loadscope-reorder --max-worker-restart 9; \
	case $$? in \
		0|5) ;; \
		1) journeys --last-failed --last-failed-no-failures none && echo "those above passed by themselves only" || failed=yes ;; \
		*) failed=yes ;; \
	esac; \
	run -m "not soak and alone"; \
	[ -z "$$failed" ]

soak: install-dev ## the longer forms of the tests
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

demo: install ## an example customer with a month of history (demo@example.com)
	@$(BIN)/python -m core.services.demo

screenshots: install-dev ## take the README's pictures anew (needs Chromium)
	$(BIN)/python -m tests.browser.screenshots

bench: install ## the figures of docs/benchmarks.md, measured here
	$(BIN)/python bench/rerun_latency.py
	$(BIN)/python bench/pages.py
	$(BIN)/python bench/ledger.py
	$(BIN)/python bench/ledger_verify.py
	$(BIN)/python bench/ledger_growth.py
	$(BIN)/python bench/gateway.py
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/tiles.py
	$(BIN)/python bench/lanes.py
	$(BIN)/python bench/gateway_soak.py --minutes 5

constraints: install ## resolve requirements-dev.txt afresh into constraints.txt
	@echo '# Every version that an installation gets, direct or not. Written by `make constraints`; not edited by hand.' > constraints.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url requirements-dev.txt >> constraints.txt

clean: ## remove what make made; data/ and weights that you added stay
	rm -rf $(VENV) *.egg-info clients/python/src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis test-artifacts
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	rm -f weights/yolov8s-fall.pt
	rm -rf weights/converted
	if [ -d weights ]; then rmdir weights 2>/dev/null || true; fi
