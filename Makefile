.PHONY: setup demo chaos test test-unit test-full coverage lint bench lock clean
BIN := .venv/bin

# Where it is set, each of the thousands of processes of a test run would compile our code anew.
unexport PYTHONDONTWRITEBYTECODE

setup:
	@scripts/setup

# The seed's example, live. ONCE=1 ends by itself and tells by its exit status whether all was true.
demo: setup
	@$(BIN)/callpool lab demo $(if $(ONCE),--once)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Plugins that this layer does not use take a second of each process's start.
test-unit: setup
	@$(BIN)/pytest tests/unit -n 2 -m "not full" -p no:schemathesis -p no:faker

# Everything but the long matrices. Much of its time is calls that last and leases that end: four
# workers keep two cores busy.
WORKERS := -n 4 --dist worksteal
test: lint
	@$(BIN)/pytest $(WORKERS) -m "not full"

# The long matrices as well.
test-full: lint
	@$(BIN)/pytest $(WORKERS)

# Which lines and branches the unit layer runs. Tracing doubles what it costs, so `test` does without.
coverage: setup
	@$(BIN)/pytest tests/unit -n 2 -m "not full" -p no:schemathesis -p no:faker --cov --cov-report=term:skip-covered

# Ten minutes of random faults on a whole system under calls (root: it mounts small disks).
# SEED=n plays a run again.
chaos: setup
	@$(BIN)/callpool lab chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

# One JSON line a figure; docs/benchmarks.md says what they mean.
bench: setup
	@for name in gate_overshoot gate_cpu_per_call allocate_to_enforced waiting_to_in_service simulate_device_years manager_scrape console_pool_page cold_start_ms device_bytes reconnect_storm contacts_per_second; do $(BIN)/python bench/$$name.py || exit 1; done

# Pin anew what requirements/*.in asks for.
lock: setup
	@$(BIN)/uv pip compile -q -U --generate-hashes --no-emit-index-url --universal --python-version 3.11 --custom-compile-command "make lock" requirements/dev.in -o requirements/dev.txt
	@$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --custom-compile-command "make lock" -c requirements/dev.txt requirements/run.in -o requirements/run.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
