"""What the graph forms share: branches, padding, layouts of tokens."""
