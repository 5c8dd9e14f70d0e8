"""The embedded demo: a small rendered world, a CLIP pre-trained on it, and four long-tailed stand-ins."""
