"""Center datasets of Parquet tables become timestamped snapshots, transfers resolved."""
