"""A trained model outside training: the SavedModel, what loads it, and an image index to search."""
