"""What the generator's prompt reads, in training and in serving."""

import views
from feast import FeatureService

from onevision.features.definitions import SERVICE

user_sequences = FeatureService(
    name=SERVICE,
    description="the user's part of the generator's prompt",
    features=[views.recent_clicked, views.recent_searched, views.recent_ordered, views.long_history, views.profile],
)
