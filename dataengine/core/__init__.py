"""What everything stands on: types, errors, skeletons, the registry, settings."""
