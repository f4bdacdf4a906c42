"""Parquet files taken apart and put together without decoding a page."""
