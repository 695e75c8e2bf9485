"""Small tensor functions that several packages of layer 1 share."""
