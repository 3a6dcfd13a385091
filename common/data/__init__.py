"""Data sets by name, the order of training, augmentation and loading."""
