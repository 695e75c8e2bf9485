"""What a model is worth: metrics on embeddings, and drivers that measure a model on a data set."""
