"""Whom the features are about."""

from feast import Entity, ValueType

from onevision.features.definitions import USER_KEY

user = Entity(name="user", join_keys=[USER_KEY], value_type=ValueType.STRING, description="a shopper")
