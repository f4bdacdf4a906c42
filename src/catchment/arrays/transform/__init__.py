"""Recordings become sessions of a store: discovery, readers, signal processing, and your own."""
