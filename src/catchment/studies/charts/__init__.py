"""Charts of released data packages: filters, and the counts that they leave."""
