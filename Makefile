# The main targets are `make test` and `make demo`. Each does its own set-up first.

PYTHON ?= python3
UV_VERSION := 0.13.9
# uv from PATH, else our own in the checkout.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --frozen
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Two workers per core: of four on two cores, three work and one takes the tests that wait
# (tests/support/turns.py). Four working ones would take as long as three and wait for one another
# more. Each takes about 1.5 GiB.
WORKERS ?= $(shell echo $$(( $(CORES) * 2 )))

# Container images often set it. Then Python caches no bytecode, and each of the hundreds of processes
# that tests start compiles Prefect again, which takes four seconds of CPU time.
unexport PYTHONDONTWRITEBYTECODE

# The Debian packages that the tests use: the team's database and messaging, and a browser.
PACKAGES := postgresql redis-server chromium

.PHONY: setup packages binaries hooks lint lint-changed secrets audit test-go test-fast test pytest
.PHONY: rotations e2e screenshots demo demo-down benchmark clean

setup: .venv/.ready

.venv/.ready: pyproject.toml uv.lock
	@if [ "$(UV)" = .uv/bin/uv ] && [ ! -x .uv/bin/uv ]; then \
		$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv==$(UV_VERSION); fi
	$(UV) sync --frozen
	@touch $@

packages:
	@missing=$$(for name in $(PACKAGES); do dpkg-query --show --showformat='$${Status}' $$name 2>/dev/null \
		| grep -q 'ok installed' || echo $$name; done); \
	[ -z "$$missing" ] || { sudo=$$([ $$(id -u) = 0 ] || echo sudo); \
		$$sudo apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		$$sudo apt-get -qq install --no-install-recommends $$missing; }

# Builds what cannot be downloaded; if Go is not on PATH, it comes from the package index.
GO := $(shell command -v go >/dev/null 2>&1 || echo --group go)

binaries: setup
	$(RUN) $(GO) python -m sandbox binaries

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright
	$(RUN) lint-imports --no-logo

# Installs the hooks of .pre-commit-config.yaml in this clone.
hooks: setup
	$(RUN) pre-commit install

# The hooks run the next two targets on the staged files.
CHANGED = $(shell git diff --cached --name-only --diff-filter=d)
CHANGED_PYTHON = $(filter %.py,$(CHANGED))

lint-changed: setup
	@[ -z "$(CHANGED_PYTHON)" ] || { \
		$(RUN) ruff check $(CHANGED_PYTHON) && \
		$(RUN) ruff format --check $(CHANGED_PYTHON) && \
		$(RUN) pyright $(filter-out tests/% benchmarks/%,$(CHANGED_PYTHON)); }

# Works on a copy of the baseline, because the hook updates line numbers in it and then exits with 3.
secrets: setup
	@[ -z "$(CHANGED)" ] || { copy=$$(mktemp) && cp .secrets.baseline "$$copy"; \
		$(RUN) detect-secrets-hook --baseline "$$copy" $(filter-out uv.lock %.sum,$(CHANGED)); \
		status=$$?; rm -f "$$copy"; [ $$status = 0 ] || [ $$status = 3 ]; }

# Checks the lock file's packages for known vulnerabilities, with uv and the OSV database. It needs a
# connection to https://api.osv.dev, or to a service with the same API (AUDIT_ARGS="--service-url URL"),
# and fails without one: a package that could not be looked up never counts as safe.
audit: setup
	$(UV) audit --frozen $(AUDIT_ARGS)

# If the programs were found or downloaded, Go may be missing; then the Go tests are skipped.
test-go: binaries
	@if command -v go >/dev/null; then cd sandbox/go/companion && go vet . && go test ./...; fi

# The same settings as for building the programs, so that dependencies are not compiled twice.
test-go: export CGO_ENABLED = 0
test-go: export GOFLAGS = -trimpath -mod=readonly

# The tests that need only Python, to run before every commit.
test-fast: setup
	$(RUN) pytest -n $(CORES) -m fast $(PYTEST_ARGS)

# Lint runs while the programs are built, and Go's tests run beside the others: alone, each leaves a
# core idle for minutes. Failures are shown at once; the other targets still run to their end.
test: setup
	@$(MAKE) --no-print-directory --jobs 4 --keep-going lint test-go pytest

pytest: packages binaries
	$(RUN) pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

# Rotates every version and issuer mode with 300 meshed workloads; `make test` has two that large.
rotations: binaries
	$(RUN) pytest -n $(WORKERS) --dist loadgroup tests/prefect_linkerd/mesh/rotation/test_rotation.py \
		tests/prefect_linkerd/mesh/rotation/test_certificate_anchor.py --workloads 300 $(PYTEST_ARGS)

# Runs the whole life of a mesh on a real cluster: docs/e2e.md.
e2e: setup
	$(RUN) python -m tools.e2e $(E2E_ARGS)

# Takes the pictures in docs/images with the test of the UI.
screenshots: packages binaries
	@mkdir -p docs/images
	SCREENSHOTS=docs/images $(RUN) pytest tests/prefect_linkerd/mesh/checks/test_ui.py

demo: binaries
	$(RUN) python -m sandbox demo $(DEMO_ARGS)

demo-down: setup
	$(RUN) python -m sandbox demo --down

benchmark: binaries
	$(RUN) python -m benchmarks.bootstrap
	$(RUN) python -m benchmarks.verify
	$(RUN) python -m benchmarks.fleet
	$(RUN) python -m benchmarks.rotate
	$(RUN) python -m benchmarks.start

clean:
	rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis
