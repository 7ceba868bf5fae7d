"""Synthetic whole-body FDG-PET/CT from organ label maps: real anatomy, randomised appearance (as SynthSeg does)."""

from l2snet.synthesis.body import VERSION, Options, synthesize

__all__ = ["VERSION", "Options", "synthesize"]
