"""What can be measured of a model and a batch, as plain functions that leave both as they were."""
