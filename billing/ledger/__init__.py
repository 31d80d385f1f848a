"""The ledger: the journal drained into it, its sums, and what is read from them."""
