"""Steps of the random augmentation of training images, one module each.

The built-in ones make a transform of albumentations, so that one seed draws all of them. Those of users are called
with an image, (H, W, 3) uint8 RGB, and a numpy generator, and return an image of the same shape.
"""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise it queries a server for newer versions on import
