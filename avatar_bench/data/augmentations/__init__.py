"""Steps of the random augmentation of training images, one module each.

The built-in ones make a transform of albumentations, so that one seed draws all of them, except for `delivery`, which
is applied to the image as stored. Those of users are called with an image, (H, W, 3) uint8 RGB, and a numpy generator,
and return an image of the same shape. Each states which corruptions and delivery tiers of robustness it resembles:
RESEMBLES of a built-in module, `resembles` of a user's class.
"""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise it queries a server for newer versions on import
