"""MedVLM-R1: teach a vision-language model to reason about radiology images.

Research use only. Not for diagnosis.
"""

__version__ = "0.1.0"
INTENDED_USE = "Research use only. Not for diagnosis."
