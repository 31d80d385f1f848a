"""What is for sale: the price book, the plans, what an organization is on, and what calls cost by it."""
