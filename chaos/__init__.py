"""The chaos harness: scenarios against real parts, proof that each fault fired, and a verdict in three values.

    scenario (YAML) -> plan (seeded) -> bench (real parts) -> method, faults -> history -> checkers -> verdict, report

Nothing is judged while it happens: observers and faults write one history, and checkers read it afterwards.
"""
