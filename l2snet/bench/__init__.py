"""How fast the product is beside MONAI and nnU-Net with the same weights, and how much it computes."""
