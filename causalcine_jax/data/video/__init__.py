"""Real films as records: what is read, found and kept of them."""
