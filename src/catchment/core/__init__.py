"""The rooms that every capability shares: store, ledger, account, findings, errors."""
