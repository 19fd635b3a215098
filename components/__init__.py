"""KFP components, one folder a stage: typed wrappers around one call of the library.

Nothing but the standard library and `kfp` is imported at their top, so that compiling is quick; the body of a
component runs inside the image, where the library is installed.
"""

import os

BASE_IMAGE = os.environ.get("ONEVISION_IMAGE", "localhost/onevision-train:0.1.0")
"""Image of every component, by default the one that `make images` builds. On a cluster name it by digest, because KFP's
cache key holds the name only."""
