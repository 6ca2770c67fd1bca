"""What work costs: the price book, the formula, quotes and receipts."""
