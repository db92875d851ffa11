"""Proofs that no adversarial example exists: intervals, the backward engine, Lipschitz constants, certificates."""
