"""The command line: one module per capability, and the output."""
