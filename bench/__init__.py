"""Benchmarks: ``make bench NAME=tables`` runs ``python -m bench.tables``."""
