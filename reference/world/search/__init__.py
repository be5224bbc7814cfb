"""Random orders beyond the enumeration: one service, five devices, and everything between them that can go wrong. Pure.

A seed draws a list of faults first; all that follows is decided by that list, so that it can be shrunk and replayed.
"""
