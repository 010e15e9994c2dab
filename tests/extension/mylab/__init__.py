"""A user's own package: parts that emgen has never heard of."""
