"""Election and ledger with one rule taken out, to see that the tests notice."""
