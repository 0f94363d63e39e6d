"""How fast, how light: ``python -m tests.benchmarks``. See docs/how-to/run-the-benchmarks.md."""
