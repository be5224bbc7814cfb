"""Proof that the prover works: a table of safeguards taken away, one by one, and of changes that change nothing."""
