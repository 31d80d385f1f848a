"""From sealed hours to a final invoice: usage pushed, compared, settled."""
