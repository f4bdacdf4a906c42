"""Streamed records become NDJSON files of bounded size, while they still stream."""
