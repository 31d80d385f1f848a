"""What a bill can be checked by: seals, receipts, and the bill with every call."""
