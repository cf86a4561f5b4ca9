"""The lab: a whole system on loopback, for demos, tests, benchmarks and outside checkers."""
