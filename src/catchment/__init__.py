"""Catchment: many sites send health data; one place makes trustworthy datasets of it."""
