"""Training: recipes, data, augmentation, losses and the loop."""
