"""L2SNet: automatic tumour segmentation in whole-body FDG-PET/CT.

The tree is the method: ``challenge.read -> Case -> localize -> segment -> fuse -> challenge.write``.
"""

__version__ = "0.1.0"
