"""Recording sessions become Zarr stores that grow."""
