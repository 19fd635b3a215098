"""The synthetic shop: a procedural catalogue in pictures, shoppers with tastes, and the log of what they did.

`shapes` and `render` make products, `shading` and `views` photograph them, `catalogue` and `shoppers` say who and
what there is, `searches` and `log` simulate behaviour, `oracle` publishes ceilings, `shop` writes the snapshot.
"""

from onevision.data.synthetic.shop import write_synthetic_snapshot

__all__ = ["write_synthetic_snapshot"]
