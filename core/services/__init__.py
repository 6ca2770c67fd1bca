"""One file a use case. A service owns its transactions and joins the nouns, which are strangers to one another."""
