"""Site uploads become merged data packages, charts and subscriptions."""
