"""Who has how many tokens: accounts, holds and an append-only list of entries. Knows no images."""
