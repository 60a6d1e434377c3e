"""The models: `registry` lists them, `build` builds them. Importing this package doesn't import torch."""
