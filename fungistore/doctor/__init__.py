"""Whether this machine, and a store on it, are fit for work: checks with a way to fix each."""

from fungistore.doctor.check import Check, State
from fungistore.doctor.examine import Examination, examine
from fungistore.doctor.floor import Floor, measure_floor

__all__ = ["Check", "Examination", "Floor", "State", "examine", "measure_floor"]
