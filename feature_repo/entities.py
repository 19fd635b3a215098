"""Who and what the features are about."""

from feast import Entity, ValueType

from onevision.features.definitions import USER_KEY

user = Entity(name="user", join_keys=[USER_KEY], value_type=ValueType.STRING, description="a shopper")
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="a product; the sequences are lists of its keys",
)
