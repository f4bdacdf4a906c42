"""Shipped for tests: contract suites, fault injection, makers of sample sites."""
