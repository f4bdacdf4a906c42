"""What only imaging has: its files' way through groups of tables, and the work on their pixels."""
