"""What decides: plain Python over plain data. No I/O, no clock, no randomness, no logging.

The edge agent, the service, the simulator and the explorer all drive these same functions.
"""
