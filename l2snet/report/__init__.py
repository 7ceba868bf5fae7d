"""Pictures of a result (extra `report`)."""
