"""The soak: random faults within guards against many devices under continuous updates; what it finds becomes a scenario.

soak(Wanted(minutes, seed, Guards(devices=20)), Options(), tell, folder)    plays it in a process of its own, and shrinks
draw_round(seed, number, guards, wild)                                      what it will do, from the seed alone
"""

from chaos.soak.draw import Guards, draw_round
from chaos.soak.play import Wanted
from chaos.soak.result import SoakResult
from chaos.soak.run import Bounds, soak

__all__ = ["Bounds", "Guards", "SoakResult", "Wanted", "draw_round", "soak"]
