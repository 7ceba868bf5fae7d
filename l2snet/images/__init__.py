"""Image files as they lie on disk: MetaImage, NIfTI and NRRD, and what their headers may claim."""
